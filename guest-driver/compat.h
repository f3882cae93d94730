/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Older kernels, for builds out of tree.  The driver is written for the current
 * kernel.  compat.mk looks into the headers for what a kernel lacks, defines
 * VBC_LACKS_* and has this file included first.  Versions do not tell: stable
 * kernels get interfaces of newer ones.
 */
#ifndef VBC_COMPAT_H
#define VBC_COMPAT_H

#include <linux/slab.h>

#ifdef VBC_LACKS_UPDATE_FROZEN
#error "virtio_blk_crypto needs Linux 6.12 (a late stable release) or 6.14 and later"
#endif

#ifndef kzalloc_obj
#define kzalloc_obj(obj)	kzalloc(sizeof(obj), GFP_KERNEL)
#endif

/* The argument was a block device. */
#ifdef VBC_LACKS_GETGEO_OF_DISK
#include <linux/blkdev.h>

static int vbc_getgeo_of_disk(struct gendisk *disk, struct hd_geometry *geo);

static int vbc_getgeo(struct block_device *bdev, struct hd_geometry *geo)
{
	return vbc_getgeo_of_disk(bdev->bd_disk, geo);
}

/* Where vbc_disk.c defines the function.  Its name alone is the one above. */
#define vbc_getgeo(...)	vbc_getgeo_of_disk(__VA_ARGS__)
#endif

#ifdef VBC_LACKS_NUM_POSSIBLE_QUEUES
#define blk_mq_num_possible_queues(max)	min_not_zero(num_possible_cpus(), max)
#endif

/* These two had the queue as an argument. */
#ifdef VBC_LACKS_MAP_SG_WITHOUT_QUEUE
#include <linux/blk-mq.h>

static inline int vbc_rq_map_sg(struct request *rq, struct scatterlist *sgl)
{
	return blk_rq_map_sg(rq->q, rq, sgl);
}

#define blk_rq_map_sg	vbc_rq_map_sg
#endif

#ifdef VBC_LACKS_MAP_KERN_WITHOUT_QUEUE
#include <linux/blk-mq.h>

static inline int vbc_rq_map_kern(struct request *rq, void *buf,
				  unsigned int len, gfp_t gfp)
{
	return blk_rq_map_kern(rq->q, rq, buf, len, gfp);
}

#define blk_rq_map_kern	vbc_rq_map_kern
#endif

/* Until 6.13 requests were merged in the software queues only on request. */
#ifdef VBC_HAS_SHOULD_MERGE
#include <linux/blk-mq.h>

static inline int vbc_alloc_merging_tag_set(struct blk_mq_tag_set *set)
{
	set->flags |= BLK_MQ_F_SHOULD_MERGE;
	return blk_mq_alloc_tag_set(set);
}

#define blk_mq_alloc_tag_set	vbc_alloc_merging_tag_set
#endif

/* Until 6.13 virtio's bus did not tell which CPUs a vector is for. */
#if __has_include(<linux/blk-mq-virtio.h>)
#include <linux/blk-mq.h>
#include <linux/blk-mq-virtio.h>
#include <linux/virtio.h>

#define blk_mq_map_hw_queues(map, dev, offset)	\
	blk_mq_virtio_map_queues(map, dev_to_virtio(dev), offset)
#endif

/* The caller saved the flags. */
#ifdef VBC_LACKS_FREEZE_WITH_MEMFLAGS
#include <linux/blk-mq.h>
#include <linux/sched/mm.h>

static inline unsigned int vbc_freeze_queue(struct request_queue *q)
{
	unsigned int memflags = memalloc_noio_save();

	blk_mq_freeze_queue(q);
	return memflags;
}

static inline void vbc_unfreeze_queue(struct request_queue *q,
				      unsigned int memflags)
{
	blk_mq_unfreeze_queue(q);
	memalloc_noio_restore(memflags);
}

#define blk_mq_freeze_queue	vbc_freeze_queue
#define blk_mq_unfreeze_queue	vbc_unfreeze_queue
#endif

/* Nobody told a driver of a function reset.  This sets freeze again. */
#ifdef VBC_LACKS_RESET_PREPARE
#define reset_prepare	freeze
#define reset_done	restore
#endif

/* Before 6.15 all keys were raw.  compat.mk leaves out vbc_wrapped.c. */
#if defined(VBC_LACKS_KEY_TYPES) && defined(CONFIG_BLK_INLINE_ENCRYPTION)
#include <linux/blkdev.h>

#define raw	bytes		/* the member of struct blk_crypto_key */
#include <linux/blk-crypto.h>
#undef raw

#include "virtio_blk_crypto_proto.h"

struct vbc_crypto;

static inline bool vbc_is_wrapped(const struct blk_crypto_key *key)
{
	return false;
}

static inline bool vbc_set_key_types(struct vbc_crypto *vc, u8 offered)
{
	return offered & VBC_CONFIG_KEY_RAW;
}

static inline const char *vbc_key_types(const struct vbc_crypto *vc)
{
	return "raw";
}
#endif

#endif /* VBC_COMPAT_H */
