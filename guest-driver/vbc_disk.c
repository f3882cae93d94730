// SPDX-License-Identifier: GPL-2.0
/*
 * What the disk is: its limits and capacity as config space tells them, its
 * name, and its attributes in sysfs.
 */
#include <linux/ctype.h>
#include <linux/hdreg.h>
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/string_helpers.h>
#include <linux/sysfs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "virtio_blk_crypto.h"

#define VBC_MAX_DISCARD_RANGES	256u
/* The most data segments for virtqueue_add_sgs(), without prefix and status */
#define VBC_MAX_SEGMENTS	32766u
/* The smallest segment that the block layer accepts */
#define VBC_MIN_SEGMENT_SIZE	4096u

#define vbc_cread(vdev, field, ptr) \
	virtio_cread(vdev, struct virtio_blk_config, field, ptr)

static char *disk_prefix = "vd";
module_param(disk_prefix, charp, 0444);
MODULE_PARM_DESC(disk_prefix,
		 "What disk names begin with (default vd: vda, vdb, ...)");

static DEFINE_IDA(vbc_index_ida);

int vbc_check_disk_prefix(void)
{
	size_t i, len = strlen(disk_prefix);

	for (i = 0; i < len; i++)
		if (!islower(disk_prefix[i]))
			break;

	if (!len || len > 8 || i < len) {
		pr_err(KBUILD_MODNAME ": disk_prefix must be 1 to 8 letters a-z\n");
		return -EINVAL;
	}
	return 0;
}

/* 0, 1, ... 25, 26, ... become a, b, ... z, aa, ... */
static int vbc_format_name(char *name, size_t size, unsigned int index)
{
	char letters[8];
	int n = sizeof(letters) - 1;

	letters[n] = '\0';
	for (;;) {
		letters[--n] = 'a' + index % 26;
		if (index < 26)
			break;
		index = index / 26 - 1;
	}

	if (snprintf(name, size, "%s%s", disk_prefix, &letters[n]) >= size)
		return -ENAMETOOLONG;
	return 0;
}

static int vbc_has_child_named(struct device *dev, void *name)
{
	struct device *child = device_find_child_by_name(dev, name);

	put_device(child);
	return !!child;
}

/*
 * The stock driver names its disks by a counter of its own.  Its disks are
 * children of virtio devices, as ours are: look there for the names that it
 * uses.
 */
int vbc_choose_name(struct vbc_dev *vbc, char *name, size_t size)
{
	int index = -1, err;

	do {
		if (index >= 0)
			ida_free(&vbc_index_ida, index);

		index = ida_alloc_min(&vbc_index_ida, index + 1, GFP_KERNEL);
		if (index < 0)
			return index;

		err = vbc_format_name(name, size, index);
		if (err) {
			ida_free(&vbc_index_ida, index);
			return err;
		}
	} while (bus_for_each_dev(vbc->vdev->dev.bus, NULL, name,
				  vbc_has_child_named));

	vbc->index = index;
	return 0;
}

void vbc_release_name(struct vbc_dev *vbc)
{
	ida_free(&vbc_index_ida, vbc->index);
}

static bool vbc_writes_back(struct virtio_device *vdev)
{
	u8 wce;

	if (!virtio_cread_feature(vdev, VIRTIO_BLK_F_CONFIG_WCE,
				  struct virtio_blk_config, wce, &wce))
		return wce;

	/* The mode is fixed: a device without FLUSH has no write-back cache. */
	return virtio_has_feature(vdev, VIRTIO_BLK_F_FLUSH);
}

/*
 * Make sure that the device writes through, as its config space may say only
 * because QEMU remembers what an earlier driver wrote, while the reset made the
 * device behind QEMU forget it.  QEMU passes on changes only, so make one.
 */
static void vbc_write_through(struct virtio_device *vdev)
{
	unsigned int wce = offsetof(struct virtio_blk_config, wce);

	if (!virtio_has_feature(vdev, VIRTIO_BLK_F_CONFIG_WCE))
		return;

	virtio_cwrite8(vdev, wce, 1);
	virtio_cwrite8(vdev, wce, 0);
	if (vbc_writes_back(vdev))
		dev_err(&vdev->dev,
			"the device does not write through: data may be lost\n");
}

/* Data segments that fit in a ring, of any queue, together with the rest. */
static unsigned int vbc_segments_of_ring(struct vbc_dev *vbc)
{
	unsigned int ring, segments = VBC_MAX_SEGMENTS, i;

	if (virtio_has_feature(vbc->vdev, VIRTIO_RING_F_INDIRECT_DESC))
		return segments;

	for (i = 0; i < vbc->nr_queues; i++) {
		ring = virtqueue_get_vring_size(vbc->vqs[i].vq);
		segments = min(segments, ring - min(ring, VBC_RQ_DESCS));
	}
	return segments;
}

static int vbc_read_segment_limits(struct vbc_dev *vbc,
				   struct queue_limits *lim)
{
	unsigned int most = vbc_segments_of_ring(vbc);
	struct virtio_device *vdev = vbc->vdev;
	u32 seg_max = 1, size_max;

	if (!most) {
		dev_err(&vdev->dev, "a ring has no room for a request\n");
		return -EINVAL;
	}

	virtio_cread_feature(vdev, VIRTIO_BLK_F_SEG_MAX,
			     struct virtio_blk_config, seg_max, &seg_max);
	lim->max_segments = clamp(seg_max, 1u, most);
	lim->max_hw_sectors = UINT_MAX;
	lim->max_segment_size = min_t(size_t, virtio_max_dma_size(vdev),
				      U32_MAX);

	if (!virtio_cread_feature(vdev, VIRTIO_BLK_F_SIZE_MAX,
				  struct virtio_blk_config, size_max,
				  &size_max)) {
		if (size_max < VBC_MIN_SEGMENT_SIZE) {
			dev_err(&vdev->dev, "size_max %u is too small\n",
				size_max);
			return -EINVAL;
		}
		lim->max_segment_size = min(lim->max_segment_size, size_max);
	}
	return 0;
}

static void vbc_read_topology(struct virtio_device *vdev,
			      struct queue_limits *lim)
{
	u32 opt_io_size;
	u16 min_io_size;
	u8 exp, offset;

	virtio_cread_feature(vdev, VIRTIO_BLK_F_BLK_SIZE,
			     struct virtio_blk_config, blk_size,
			     &lim->logical_block_size);

	if (!virtio_has_feature(vdev, VIRTIO_BLK_F_TOPOLOGY))
		return;

	vbc_cread(vdev, physical_block_exp, &exp);
	vbc_cread(vdev, alignment_offset, &offset);
	vbc_cread(vdev, min_io_size, &min_io_size);
	vbc_cread(vdev, opt_io_size, &opt_io_size);

	/* These are hints: drop what does not fit the fields. */
	if (exp < 16)
		lim->physical_block_size = lim->logical_block_size << exp;
	lim->alignment_offset = lim->logical_block_size * offset;
	lim->io_min = lim->logical_block_size * min_io_size;
	if (check_mul_overflow(lim->logical_block_size, opt_io_size,
			       &lim->io_opt))
		lim->io_opt = 0;
}

/*
 * The block layer has one granularity and one number of ranges for both discard
 * and secure erase: use values that are valid for both.
 */
static int vbc_read_discard_limits(struct virtio_device *vdev,
				   struct queue_limits *lim)
{
	u32 granularity = 0, ranges = 0, v;

	if (virtio_has_feature(vdev, VIRTIO_BLK_F_WRITE_ZEROES)) {
		vbc_cread(vdev, max_write_zeroes_sectors, &v);
		lim->max_write_zeroes_sectors = v ?: UINT_MAX;
	}

	if (virtio_has_feature(vdev, VIRTIO_BLK_F_DISCARD)) {
		vbc_cread(vdev, max_discard_sectors, &v);
		lim->max_hw_discard_sectors = v ?: UINT_MAX;
		vbc_cread(vdev, max_discard_seg, &ranges);
		vbc_cread(vdev, discard_sector_alignment, &granularity);
	}

	if (virtio_has_feature(vdev, VIRTIO_BLK_F_SECURE_ERASE)) {
		u32 sectors, segs, align;

		vbc_cread(vdev, max_secure_erase_sectors, &sectors);
		vbc_cread(vdev, max_secure_erase_seg, &segs);
		vbc_cread(vdev, secure_erase_sector_alignment, &align);
		if (!sectors || !segs || !align) {
			dev_err(&vdev->dev,
				"secure erase offered with a limit of zero\n");
			return -EINVAL;
		}
		lim->max_secure_erase_sectors = sectors;
		ranges = min_not_zero(ranges, segs);
		granularity = min_not_zero(granularity, align);
	}

	if (lim->max_hw_discard_sectors || lim->max_secure_erase_sectors) {
		if (!ranges)
			ranges = lim->max_segments;
		lim->max_discard_segments = min(ranges, VBC_MAX_DISCARD_RANGES);
		if (check_mul_overflow(granularity, (u32)SECTOR_SIZE,
				       &lim->discard_granularity) ||
		    !lim->discard_granularity)
			lim->discard_granularity = lim->logical_block_size;
	}
	return 0;
}

int vbc_read_limits(struct vbc_dev *vbc, struct queue_limits *lim)
{
	struct virtio_device *vdev = vbc->vdev;
	int err;

	lim->logical_block_size = SECTOR_SIZE;
	if (!vbc_writes_back(vdev))
		vbc_write_through(vdev);
	if (vbc_writes_back(vdev))
		lim->features |= BLK_FEAT_WRITE_CACHE;

	err = vbc_read_segment_limits(vbc, lim);
	if (err)
		return err;
	vbc_read_topology(vdev, lim);
	return vbc_read_discard_limits(vdev, lim);
}

void vbc_read_geometry(struct vbc_dev *vbc)
{
	struct virtio_device *vdev = vbc->vdev;

	if (!virtio_has_feature(vdev, VIRTIO_BLK_F_GEOMETRY))
		return;

	vbc_cread(vdev, geometry.cylinders, &vbc->geo.cylinders);
	vbc_cread(vdev, geometry.heads, &vbc->geo.heads);
	vbc_cread(vdev, geometry.sectors, &vbc->geo.sectors);
}

void vbc_update_capacity(struct vbc_dev *vbc, bool resize)
{
	struct request_queue *q = vbc->disk->queue;
	char size_2[10], size_10[10];
	u64 capacity;

	vbc_cread(vbc->vdev, capacity, &capacity);

	string_get_size(capacity, SECTOR_SIZE, STRING_UNITS_2, size_2,
			sizeof(size_2));
	string_get_size(capacity, SECTOR_SIZE, STRING_UNITS_10, size_10,
			sizeof(size_10));
	dev_notice(&vbc->vdev->dev,
		   "[%s] %s%llu 512-byte sectors (%s/%s), %u-byte blocks\n",
		   vbc->disk->disk_name, resize ? "new size: " : "", capacity,
		   size_10, size_2, queue_logical_block_size(q));

	set_capacity_and_notify(vbc->disk, capacity);
}

/* Only old partitioning tools and boot loaders ask. */
static int vbc_getgeo(struct gendisk *disk, struct hd_geometry *geo)
{
	struct vbc_dev *vbc = disk->private_data;

	geo->cylinders = vbc->geo.cylinders;
	geo->heads = vbc->geo.heads;
	geo->sectors = vbc->geo.sectors;

	if (!geo->cylinders) {
		geo->heads = 64;
		geo->sectors = 32;
		geo->cylinders = get_capacity(disk) / (64 * 32);
	}
	return 0;
}

static void vbc_free_disk(struct gendisk *disk)
{
	struct vbc_dev *vbc = disk->private_data;

	vbc_release_name(vbc);
	vbc_free(vbc);
}

const struct block_device_operations vbc_fops = {
	.owner		= THIS_MODULE,
	.getgeo		= vbc_getgeo,
	.free_disk	= vbc_free_disk,
};

static ssize_t serial_show(struct device *dev, struct device_attribute *attr,
			   char *buf)
{
	struct vbc_dev *vbc = dev_to_disk(dev)->private_data;
	int err;

	/* An ID of the maximum length has no terminator. */
	buf[VIRTIO_BLK_ID_BYTES] = '\0';
	err = vbc_get_id(vbc, buf);
	if (!err)
		return strlen(buf);

	/* A device without a serial number is no error. */
	if (err == -EIO || err == -EOPNOTSUPP)
		return 0;

	return err;
}
static DEVICE_ATTR_RO(serial);

static const char *const vbc_cache_types[] = {
	"write through", "write back"
};

static ssize_t cache_type_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	struct vbc_dev *vbc = dev_to_disk(dev)->private_data;

	return sysfs_emit(buf, "%s\n",
			  vbc_cache_types[vbc_writes_back(vbc->vdev)]);
}

static ssize_t cache_type_store(struct device *dev,
				struct device_attribute *attr,
				const char *buf, size_t count)
{
	struct gendisk *disk = dev_to_disk(dev);
	struct vbc_dev *vbc = disk->private_data;
	struct queue_limits lim;
	int type, err;

	type = sysfs_match_string(vbc_cache_types, buf);
	if (type < 0)
		return type;

	virtio_cwrite8(vbc->vdev, offsetof(struct virtio_blk_config, wce),
		       type);

	/* The device decides on its mode. */
	lim = queue_limits_start_update(disk->queue);
	if (vbc_writes_back(vbc->vdev))
		lim.features |= BLK_FEAT_WRITE_CACHE;
	else
		lim.features &= ~BLK_FEAT_WRITE_CACHE;
	err = queue_limits_commit_update_frozen(disk->queue, &lim);

	return err ?: count;
}
static DEVICE_ATTR_RW(cache_type);

/*
 * The device has been reset.  The block layer sends no flushes if cache_type was
 * "write through", whatever the device does now.
 */
void vbc_restore_cache_type(struct vbc_dev *vbc)
{
	if (!(vbc->disk->queue->limits.features & BLK_FEAT_WRITE_CACHE))
		vbc_write_through(vbc->vdev);
}

static struct attribute *vbc_attrs[] = {
	&dev_attr_serial.attr,
	&dev_attr_cache_type.attr,
	NULL,
};

static umode_t vbc_attr_is_visible(struct kobject *kobj, struct attribute *a,
				   int n)
{
	struct vbc_dev *vbc = dev_to_disk(kobj_to_dev(kobj))->private_data;

	if (a == &dev_attr_cache_type.attr &&
	    !virtio_has_feature(vbc->vdev, VIRTIO_BLK_F_CONFIG_WCE))
		return 0444;

	return a->mode;
}

static const struct attribute_group vbc_attr_group = {
	.attrs		= vbc_attrs,
	.is_visible	= vbc_attr_is_visible,
};

const struct attribute_group *vbc_attr_groups[] = {
	&vbc_attr_group,
#ifdef CONFIG_BLK_INLINE_ENCRYPTION
	&vbc_crypto_attr_group,
#endif
	NULL,
};
