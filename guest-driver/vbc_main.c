// SPDX-License-Identifier: GPL-2.0
/*
 * virtio_blk_crypto: virtio-blk with inline encryption, and without
 *
 * Negotiation, probe, removal, suspend and resume of a device.
 */
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include "virtio_blk_crypto.h"

static const unsigned int vbc_features[] = {
	VIRTIO_BLK_F_SIZE_MAX,
	VIRTIO_BLK_F_SEG_MAX,
	VIRTIO_BLK_F_GEOMETRY,
	VIRTIO_BLK_F_RO,
	VIRTIO_BLK_F_BLK_SIZE,
	VIRTIO_BLK_F_FLUSH,
	VIRTIO_BLK_F_TOPOLOGY,
	VIRTIO_BLK_F_CONFIG_WCE,
	VIRTIO_BLK_F_MQ,
	VIRTIO_BLK_F_DISCARD,
	VIRTIO_BLK_F_WRITE_ZEROES,
	VIRTIO_BLK_F_SECURE_ERASE,
	/* accepted only to see which devices to refuse */
	VIRTIO_BLK_F_ZONED,
#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	VBC_F_CTRL_VQ,
	VBC_F_INLINE_ENCRYPTION,
#endif
};

/* Without VIRTIO_F_VERSION_1 a device is a plain disk, whatever it offers. */
static const unsigned int vbc_features_legacy[] = {
	VIRTIO_BLK_F_SIZE_MAX,
	VIRTIO_BLK_F_SEG_MAX,
	VIRTIO_BLK_F_GEOMETRY,
	VIRTIO_BLK_F_RO,
	VIRTIO_BLK_F_BLK_SIZE,
	VIRTIO_BLK_F_FLUSH,
	VIRTIO_BLK_F_TOPOLOGY,
	VIRTIO_BLK_F_CONFIG_WCE,
	VIRTIO_BLK_F_MQ,
	VIRTIO_BLK_F_DISCARD,
	VIRTIO_BLK_F_WRITE_ZEROES,
	VIRTIO_BLK_F_SECURE_ERASE,
};

static const struct virtio_device_id vbc_id_table[] = {
	{ VIRTIO_ID_BLOCK, VIRTIO_DEV_ANY_ID },
	{ 0 },
};

/* All registers of a device that was pulled out read as all ones. */
bool vbc_is_gone(struct vbc_dev *vbc)
{
	return vbc->vdev->config->get_status(vbc->vdev) == 0xff;
}

/*
 * After this all buffers belong to the guest: virtio_reset_device() waits until
 * the device confirms the reset.
 */
void vbc_reset_device(struct vbc_dev *vbc)
{
	if (vbc_is_gone(vbc)) {
		virtio_break_device(vbc->vdev);
		virtio_synchronize_cbs(vbc->vdev);
	} else {
		virtio_reset_device(vbc->vdev);
	}
	vbc_detach_all_bufs(vbc);
}

/*
 * All requests and commands have ended or have been given up.  But whoever sent
 * the last ones may be about to notify the device.
 */
static void vbc_stop(struct vbc_dev *vbc)
{
	blk_mq_wait_quiesce_done(&vbc->tag_set);
	vbc_crypto_suspend(vbc);
	vbc_reset_device(vbc);
	vbc_crypto_wipe(vbc);
}

void vbc_free(struct vbc_dev *vbc)
{
	vbc_crypto_free(vbc);
	kfree(vbc);
}

static void vbc_config_work(struct work_struct *work)
{
	struct vbc_dev *vbc = container_of(work, struct vbc_dev, config_work);

	vbc_update_capacity(vbc, true);
}

static void vbc_config_changed(struct virtio_device *vdev)
{
	struct vbc_dev *vbc = vdev->priv;

	schedule_work(&vbc->config_work);
}

static int vbc_validate(struct virtio_device *vdev)
{
	u8 model;

	if (!vdev->config->get) {
		dev_err(&vdev->dev, "device has no config space\n");
		return -EINVAL;
	}

	if (virtio_has_feature(vdev, VIRTIO_BLK_F_ZONED)) {
		virtio_cread(vdev, struct virtio_blk_config, zoned.model,
			     &model);
		if (model != VIRTIO_BLK_Z_NONE) {
			dev_err(&vdev->dev,
				"zoned devices are not supported (model %u)\n",
				model);
			return -EOPNOTSUPP;
		}
		__virtio_clear_bit(vdev, VIRTIO_BLK_F_ZONED);
	}

#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	/* One bit without the other is useless; 23 alone is not allowed. */
	if (!virtio_has_feature(vdev, VBC_F_CTRL_VQ) ||
	    !virtio_has_feature(vdev, VBC_F_INLINE_ENCRYPTION)) {
		__virtio_clear_bit(vdev, VBC_F_CTRL_VQ);
		__virtio_clear_bit(vdev, VBC_F_INLINE_ENCRYPTION);
	}
#endif
	return 0;
}

static int vbc_alloc_tag_set(struct vbc_dev *vbc)
{
	struct blk_mq_tag_set *set = &vbc->tag_set;

	set->ops = &vbc_mq_ops;
	set->nr_hw_queues = vbc->nr_queues;
	set->nr_maps = 1;
	set->queue_depth = vbc_queue_depth(vbc);
	set->numa_node = NUMA_NO_NODE;
	set->cmd_size = struct_size_t(struct vbc_req, key,
				      vbc_crypto_keys_in_rqs(vbc) ? 1 : 0);
	set->driver_data = vbc;

	return blk_mq_alloc_tag_set(set);
}

static int vbc_add_disk(struct vbc_dev *vbc, struct queue_limits *lim)
{
	struct virtio_device *vdev = vbc->vdev;
	struct gendisk *disk;
	int err;

	disk = blk_mq_alloc_disk(&vbc->tag_set, lim, vbc);
	if (IS_ERR(disk))
		return PTR_ERR(disk);

	vbc->disk = disk;
	disk->private_data = vbc;
	disk->fops = &vbc_fops;

	err = vbc_choose_name(vbc, disk->disk_name, DISK_NAME_LEN);
	if (err)
		goto put;

	if (virtio_has_feature(vdev, VIRTIO_BLK_F_RO))
		set_disk_ro(disk, true);
	vbc_read_geometry(vbc);
	vbc_update_capacity(vbc, false);
	vbc_crypto_register(vbc);

	err = device_add_disk(&vdev->dev, disk, vbc_attr_groups);
	if (err)
		goto release_name;
	return 0;

release_name:
	vbc_release_name(vbc);
put:
	/* Never added, so this does not call vbc_free_disk(). */
	put_disk(disk);
	return err;
}

static int vbc_probe(struct virtio_device *vdev)
{
	struct queue_limits lim = { };
	struct vbc_dev *vbc;
	int err;

	vbc = kzalloc_obj(*vbc);
	if (!vbc)
		return -ENOMEM;

	vbc->vdev = vdev;
	vdev->priv = vbc;
	INIT_WORK(&vbc->config_work, vbc_config_work);

	if (vbc_may_have_crypto(vdev)) {
		err = vbc_crypto_alloc(vbc);
		if (err)
			goto free;
	}

	err = vbc_init_vqs(vbc);
	if (err)
		goto free;

	/*
	 * Ask the device for its crypto modes before the disk exists, because
	 * the limits of the disk depend on them.
	 */
	virtio_device_ready(vdev);
	vbc_crypto_init(vbc);

	err = vbc_read_limits(vbc, &lim);
	if (err)
		goto reset;
	vbc_crypto_adjust_limits(vbc, &lim);

	err = vbc_alloc_tag_set(vbc);
	if (err)
		goto reset;

	err = vbc_add_disk(vbc, &lim);
	if (err)
		goto free_tags;
	return 0;

free_tags:
	blk_mq_free_tag_set(&vbc->tag_set);
reset:
	vbc_stop(vbc);
	vbc_del_vqs(vbc);
free:
	vbc_free(vbc);
	return err;
}

/*
 * Let requests go on.  If the core cannot restore the device, it does not call
 * vbc_restore(): then they fail, rather than wait for ever.
 */
static void vbc_thaw(struct vbc_dev *vbc)
{
	if (!vbc->frozen)
		return;
	/* A request that is sent from now on needs its notification. */
	WRITE_ONCE(vbc->frozen, false);
	smp_wmb(); /* before the queue runs; pairs with vbc_commit_rqs() */
	blk_mq_unquiesce_queue(vbc->disk->queue);
}

static void vbc_remove(struct virtio_device *vdev)
{
	struct vbc_dev *vbc = vdev->priv;

	/* The core sends no more config changes. */
	cancel_work_sync(&vbc->config_work);

	vbc_thaw(vbc);
	vbc_crypto_begin_removal(vbc);
	if (vbc_is_broken(vbc) || vbc_is_gone(vbc)) {
		/* First: from now on evictions must not wait for an answer. */
		virtio_break_device(vdev);
		vbc_abort_requests(vbc);
		/* This waits for write-back of the file system. */
		blk_mark_disk_dead(vbc->disk);
	}

	/* Waits for all requests, including those to be retried. */
	del_gendisk(vbc->disk);

	vbc_stop(vbc);
	vbc_del_vqs(vbc);
	blk_mq_free_tag_set(&vbc->tag_set);

	/* A mounted file system may keep the disk, and evict keys, for long. */
	put_disk(vbc->disk);
}

/*
 * Let all requests end, keep new ones waiting, and delete the virtqueues.  If
 * the device is broken, requests end with an error: a reset may repair it.  New
 * requests still get as far as the dispatch lists, and new keys as far as
 * vbc_crypto.c, which programs them in vbc_crypto_resume().
 */
static int vbc_freeze(struct virtio_device *vdev)
{
	struct vbc_dev *vbc = vdev->priv;
	struct request_queue *q = vbc->disk->queue;
	unsigned int memflags;

	vbc_thaw(vbc);
	if (vbc_is_broken(vbc) || vbc_is_gone(vbc))
		vbc_abort_requests(vbc);

	/*
	 * The core sends no more config changes.  This one may need memory, and
	 * so requests that are held back below.
	 */
	flush_work(&vbc->config_work);

	memflags = blk_mq_freeze_queue(q);
	blk_mq_quiesce_queue_nowait(q);
	WRITE_ONCE(vbc->frozen, true);
	blk_mq_unfreeze_queue(q, memflags);

	vbc_stop(vbc);
	vbc_del_vqs(vbc);
	return 0;
}

static int vbc_restore(struct virtio_device *vdev)
{
	struct vbc_dev *vbc = vdev->priv;
	unsigned int memflags;
	int err;

	/* Reclaim may wait for the very requests that are held back. */
	memflags = memalloc_noio_save();

	err = vbc_init_vqs(vbc);
	if (!err) {
		virtio_device_ready(vdev);
		vbc_restore_cache_type(vbc);
		/* Keys first: waiting requests may need them. */
		vbc_crypto_resume(vbc);
	}

	/* On failure too. */
	vbc_thaw(vbc);
	memalloc_noio_restore(memflags);
	return err;
}

static struct virtio_driver vbc_driver = {
	.driver.name			= KBUILD_MODNAME,
	.id_table			= vbc_id_table,
	.feature_table			= vbc_features,
	.feature_table_size		= ARRAY_SIZE(vbc_features),
	.feature_table_legacy		= vbc_features_legacy,
	.feature_table_size_legacy	= ARRAY_SIZE(vbc_features_legacy),
	.validate			= vbc_validate,
	.probe				= vbc_probe,
	.remove				= vbc_remove,
	.config_changed			= vbc_config_changed,
	.freeze				= pm_sleep_ptr(vbc_freeze),
	.restore			= pm_sleep_ptr(vbc_restore),
	.reset_prepare			= vbc_freeze,
	.reset_done			= vbc_restore,
};

static int __init vbc_init(void)
{
	int err;

	err = vbc_check_disk_prefix();
	if (err)
		return err;

	err = vbc_crypto_module_init();
	if (err)
		return err;

	err = register_virtio_driver(&vbc_driver);
	if (err)
		vbc_crypto_module_exit();
	return err;
}
module_init(vbc_init);

static void __exit vbc_exit(void)
{
	unregister_virtio_driver(&vbc_driver);
	vbc_crypto_module_exit();
}
module_exit(vbc_exit);

MODULE_DEVICE_TABLE(virtio, vbc_id_table);
MODULE_AUTHOR("vhost-user-blk-crypto project");
MODULE_DESCRIPTION("Virtio block driver with inline encryption");
MODULE_LICENSE("GPL");
