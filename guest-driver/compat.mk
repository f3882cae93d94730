# SPDX-License-Identifier: GPL-2.0
# Older kernels, for builds out of tree: what compat.h is to make up for. A kernel tree needs neither file.

# vbc-lacks NAME,HEADER,TEXT: VBC_LACKS_NAME is defined if the kernel's header does not have the text.
vbc-lacks = $(if $(shell grep -s '$(3)' $(srctree)/include/linux/$(2)),,-DVBC_LACKS_$(1))
# vbc-has NAME,HEADER,TEXT: VBC_HAS_NAME is defined if the kernel's header still has the text.
vbc-has = $(if $(shell grep -s '$(3)' $(srctree)/include/linux/$(2)),-DVBC_HAS_$(1))

vbc-compat := \
	$(call vbc-lacks,UPDATE_FROZEN,blkdev.h,queue_limits_commit_update_frozen) \
	$(call vbc-lacks,NUM_POSSIBLE_QUEUES,blk-mq.h,blk_mq_num_possible_queues) \
	$(call vbc-lacks,MAP_SG_WITHOUT_QUEUE,blk-mq.h,blk_rq_map_sg.struct request [*]) \
	$(call vbc-lacks,MAP_KERN_WITHOUT_QUEUE,blk-mq.h,blk_rq_map_kern.struct request [*]) \
	$(call vbc-lacks,FREEZE_WITH_MEMFLAGS,blk-mq.h,blk_mq_freeze_queue_nomemsave) \
	$(call vbc-lacks,RESET_PREPARE,virtio.h,[*]reset_prepare) \
	$(call vbc-has,SHOULD_MERGE,blk-mq.h,BLK_MQ_F_SHOULD_MERGE) \
	$(call vbc-lacks,KEY_TYPES,blk-crypto-profile.h,key_types_supported)

ccflags-y += $(vbc-compat) -include $(src)/compat.h
# Only there, because it declares a function of that file.
CFLAGS_vbc_disk.o += $(call vbc-lacks,GETGEO_OF_DISK,blkdev.h,getgeo..struct gendisk)

ifneq ($(filter -DVBC_LACKS_KEY_TYPES,$(vbc-compat)),)
virtio_blk_crypto-y := $(filter-out vbc_wrapped.o,$(virtio_blk_crypto-y))
endif
