// SPDX-License-Identifier: GPL-2.0
/*
 * Inline encryption: a blk_crypto_profile whose keyslots are those of the
 * device (which may have none), and its setup, suspend and removal.
 */
#include <linux/bitmap.h>
#include <linux/blk-crypto-profile.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>

#include "virtio_blk_crypto.h"
#include "vbc_crypto.h"

static bool vbc_in_band;
module_param_named(in_band, vbc_in_band, bool, 0644);
MODULE_PARM_DESC(in_band,
		 "Ask devices without a control virtqueue for inline encryption by commands on their request queues (default: no)");

struct vbc_crypto *vbc_crypto_from_profile(struct blk_crypto_profile *profile)
{
	return container_of(profile, struct vbc_crypto, profile);
}

/* Legacy devices never offer these: see vbc_features_legacy. */
bool vbc_has_ctrl_vq(struct virtio_device *vdev)
{
	return virtio_has_feature(vdev, VIRTIO_F_VERSION_1) &&
	       virtio_has_feature(vdev, VBC_F_CTRL_VQ) &&
	       virtio_has_feature(vdev, VBC_F_INLINE_ENCRYPTION);
}

bool vbc_may_have_crypto(struct virtio_device *vdev)
{
	return vbc_has_ctrl_vq(vdev) ||
	       (vbc_in_band && virtio_has_feature(vdev, VIRTIO_F_VERSION_1));
}

static const struct blk_crypto_ll_ops vbc_crypto_ops = {
	/* Only for devices with keyslots: see vbc_init_profile() */
	.keyslot_program	= vbc_keyslot_program,
	.keyslot_evict		= vbc_keyslot_evict,
	/* Those of hardware-wrapped keys: see vbc_set_key_types() */
};

/* Setup, suspend and removal */

int vbc_crypto_alloc(struct vbc_dev *vbc)
{
	struct vbc_crypto *vc;
	int err;

	vc = kzalloc_obj(*vc);
	if (!vc)
		return -ENOMEM;

	err = vbc_ctrl_alloc(vc);
	if (err) {
		kfree(vc);
		return err;
	}

	vc->vdev = vbc->vdev;
	vc->in_band = !vbc_has_ctrl_vq(vbc->vdev);
	vbc_nokey_init(vc);
	vbc->crypto = vc;
	return 0;
}

void vbc_crypto_free(struct vbc_dev *vbc)
{
	struct vbc_crypto *vc = vbc->crypto;

	if (!vc)
		return;

	if (vc->profile_valid)
		blk_crypto_profile_destroy(&vc->profile);
	vbc_digests_exit(vc);
	bitmap_free(vc->refused_slots);
	vbc_ctrl_free(vc);
	kfree(vc);
}

void vbc_crypto_set_ctrl_vq(struct vbc_dev *vbc, struct virtqueue *vq)
{
	vbc->crypto->ctrl_vq.vq = vq;
	vbc->crypto->vq = &vbc->crypto->ctrl_vq;
}

void vbc_crypto_set_in_band_vq(struct vbc_dev *vbc)
{
	vbc->crypto->vq = &vbc->vqs[0];
}

static int vbc_get_characteristics(struct vbc_crypto *vc,
				   struct vbc_characteristics *found)
{
	struct virtio_device *vdev = vc->vdev;
	struct vbc_ctrl_cmd *cmd;
	int err;

	if (!vc->in_band) {
		virtio_cread_bytes(vdev, offsetof(struct vbc_config, crypto),
				   found, sizeof(*found));
		return 0;
	}

	cmd = vbc_ctrl_begin(vc);
	if (IS_ERR(cmd))
		return PTR_ERR(cmd);
	err = vbc_ctrl_exec(vc, VBC_T_GET_CRYPTO_CHARACTERISTICS, 0,
			    sizeof(*found));
	*found = cmd->reply.characteristics;
	vbc_ctrl_end(vc);
	return err;
}

/* What @found has stays all 0 if the device has no extensions. */
static int vbc_get_extensions(struct vbc_crypto *vc,
			      struct vbc_crypto_extensions *found)
{
	struct vbc_ctrl_cmd *cmd;
	int err;

	cmd = vbc_ctrl_begin(vc);
	if (IS_ERR(cmd))
		return PTR_ERR(cmd);
	err = vbc_ctrl_exec(vc, VBC_T_GET_CRYPTO_EXTENSIONS, 0, sizeof(*found));
	if (!err)
		*found = cmd->reply.extensions;
	vbc_ctrl_end(vc);
	return err == -EOPNOTSUPP ? 0 : err;
}

static int vbc_get_modes(struct vbc_crypto *vc)
{
	unsigned int *supported = vc->profile.modes_supported;
	struct vbc_crypto_modes *modes;
	struct vbc_ctrl_cmd *cmd;
	bool any = false;
	int i, err;

	cmd = vbc_ctrl_begin(vc);
	if (IS_ERR(cmd))
		return PTR_ERR(cmd);

	modes = &cmd->reply.modes;
	err = vbc_ctrl_exec(vc, VBC_T_GET_CRYPTO_MODES, 0, sizeof(*modes));
	if (!err) {
		for (i = 0; i < BLK_ENCRYPTION_MODE_MAX; i++) {
			if (vbc_modes[i].mode == VBC_MODE_INVALID)
				continue;
			supported[i] = le32_to_cpu(modes->mode[vbc_modes[i].mode]);
			any |= supported[i];
		}
		if (!any)
			err = -EOPNOTSUPP;
	}

	vbc_ctrl_end(vc);
	return err;
}

static int vbc_init_profile(struct vbc_crypto *vc)
{
	struct virtio_device *vdev = vc->vdev;
	struct vbc_crypto_extensions extensions = { };
	struct vbc_characteristics found;
	u8 dun_bytes;
	u16 slots;
	int err;

	err = vbc_get_characteristics(vc, &found);
	if (err)
		return err;
	slots = le16_to_cpu(found.max_slots);
	dun_bytes = found.max_dun_bytes;
	if (!dun_bytes || dun_bytes > VBC_MAX_DUN_BYTES) {
		dev_warn(&vdev->dev, "%u keyslots with %u bytes of DUN make no sense\n",
			 slots, dun_bytes);
		return -EINVAL;
	}
	if (!slots || vbc_knows_digests()) {
		err = vbc_get_extensions(vc, &extensions);
		if (err)
			return err;
	}
	/* An engine without keyslots is usable only if requests carry keys. */
	if (!slots && !(le32_to_cpu(extensions.flags) &
			VBC_EXT_KEYS_IN_REQUESTS)) {
		dev_warn(&vdev->dev,
			 "device has no keyslots and takes no keys in requests\n");
		return -EOPNOTSUPP;
	}

	vc->refused_slots = bitmap_zalloc(slots, GFP_KERNEL);
	if (!vc->refused_slots)
		return -ENOMEM;

	err = blk_crypto_profile_init(&vc->profile, slots);
	if (err)
		return err;
	vc->profile_valid = true;

	vc->profile.ll_ops = vbc_crypto_ops;
	if (!slots) {
		/*
		 * Without keyslots blk-crypto would call keyslot_evict with
		 * slot -1, for layered devices.  Here nothing is to be evicted.
		 */
		vc->profile.ll_ops.keyslot_program = NULL;
		vc->profile.ll_ops.keyslot_evict = NULL;
	}
	vc->profile.max_dun_bytes_supported = dun_bytes;
	if (!vbc_set_key_types(vc, found.key_types)) {
		dev_warn(&vdev->dev,
			 "device takes no type of key that the kernel knows (%#x)\n",
			 found.key_types);
		return -EOPNOTSUPP;
	}
	vbc_digests_init(vc, le32_to_cpu(extensions.digests));

	return vbc_get_modes(vc);
}

/* The disk becomes a plain one; the kernel then encrypts by itself. */
static void vbc_drop_profile(struct vbc_crypto *vc, int err)
{
	if (vc->in_band && err == -EOPNOTSUPP)
		dev_info(&vc->vdev->dev, "no inline encryption in-band\n");
	else
		dev_warn(&vc->vdev->dev,
			 "inline encryption cannot be used (%d)\n", err);
	if (vc->profile_valid)
		blk_crypto_profile_destroy(&vc->profile);
	vc->profile_valid = false;
}

/* The device is ready. */
void vbc_crypto_init(struct vbc_dev *vbc)
{
	struct vbc_crypto *vc = vbc->crypto;
	int err;

	if (!vc)
		return;

	vc->state = VBC_CTRL_UP;
	err = vbc_init_profile(vc);
	if (err)
		vbc_drop_profile(vc, err);
	else
		vbc_evict_all_keys(vc);
}

/*
 * When the block layer splits a bio, it respects the logical block size but not
 * the data unit size.  So the pieces are whole data units only if every limit
 * is a multiple of the data unit size.  For the same reason, data units that do
 * not fit in a segment are not offered.
 */
void vbc_crypto_adjust_limits(struct vbc_dev *vbc, struct queue_limits *lim)
{
	struct vbc_crypto *vc = vbc->crypto;
	unsigned int all = 0, fitting, unit;
	int i;

	if (!vc || !vc->profile_valid)
		return;

	/* All powers of two up to the segment size */
	fitting = (rounddown_pow_of_two(lim->max_segment_size) << 1) - 1;
	for (i = 0; i < BLK_ENCRYPTION_MODE_MAX; i++) {
		vc->profile.modes_supported[i] &= fitting;
		all |= vc->profile.modes_supported[i];
	}
	if (!all) {
		vbc_drop_profile(vc, -EOPNOTSUPP);
		return;
	}

	vbc_digests_adjust_limits(vc, lim, all);
	unit = max_t(unsigned int, rounddown_pow_of_two(all), SECTOR_SIZE);
	lim->max_segment_size = round_down(lim->max_segment_size, unit);
	/* Segments of large pages must not be cut at multiples of 4 GiB. */
	lim->seg_boundary_mask = ULONG_MAX;
	lim->max_hw_sectors = round_down(lim->max_hw_sectors,
					 unit >> SECTOR_SHIFT);
	/* Each of these two may become the limit of a request. */
	lim->io_opt = round_down(lim->io_opt, unit);
	if (lim->io_min > unit)
		lim->io_min = round_down(lim->io_min, unit);
}

/* Before the disk is added, so that sysfs shows it */
void vbc_crypto_register(struct vbc_dev *vbc)
{
	struct vbc_crypto *vc = vbc->crypto;
	const struct blk_crypto_profile *profile;
	unsigned int xts;

	if (!vc || !vc->profile_valid)
		return;

	profile = &vc->profile;
	xts = profile->modes_supported[BLK_ENCRYPTION_MODE_AES_256_XTS];
	if (blk_crypto_register(&vc->profile, vbc->disk->queue))
		dev_info(&vbc->vdev->dev,
			 "inline encryption: %u keyslots, %s keys%s, %u-byte DUNs, AES-256-XTS data unit sizes %#x\n",
			 profile->num_slots,
			 vbc_key_types(vc),
			 profile->num_slots ? "" : " in requests",
			 profile->max_dun_bytes_supported, xts);
}

/* No request is left; the device is about to be reset. */
void vbc_crypto_suspend(struct vbc_dev *vbc)
{
	struct vbc_crypto *vc = vbc->crypto;

	if (!vc)
		return;

	flush_work(&vc->nokey_work);

	/*
	 * Evictions and commands for hardware-wrapped keys come at any time:
	 * wait for the one in flight.
	 */
	mutex_lock(&vc->ctrl_lock);
	vc->state = VBC_CTRL_DOWN;
	mutex_unlock(&vc->ctrl_lock);
}

/* The device has been reset: the driver owns an unanswered command again. */
void vbc_crypto_wipe(struct vbc_dev *vbc)
{
	if (vbc->crypto)
		vbc_ctrl_wipe(vbc->crypto);
}

/* The device has been reset and is ready; no request has been sent yet. */
void vbc_crypto_resume(struct vbc_dev *vbc)
{
	struct vbc_crypto *vc = vbc->crypto;

	if (!vc || !vc->profile_valid)
		return;

	mutex_lock(&vc->ctrl_lock);
	vc->state = VBC_CTRL_UP;
	mutex_unlock(&vc->ctrl_lock);

	/*
	 * The device may still have keys that were evicted meanwhile.  A key
	 * that comes at the same time may be lost here, but not after this.
	 */
	vbc_evict_all_keys(vc);
	vbc_reprogram_all_keys(vc);
}

void vbc_crypto_begin_removal(struct vbc_dev *vbc)
{
	if (vbc->crypto)
		WRITE_ONCE(vbc->crypto->removing, true);
}

/* Whether encrypted requests carry their keys.  Fixed before the first one. */
bool vbc_crypto_keys_in_rqs(struct vbc_dev *vbc)
{
	struct vbc_crypto *vc = vbc->crypto;

	return vc && vc->profile_valid && !vc->profile.num_slots;
}

/* In-band this is the first request queue once more. */
void vbc_crypto_detach_bufs(struct vbc_dev *vbc)
{
	if (vbc->crypto)
		vbc_detach_bufs(vbc->crypto->vq);
}

bool vbc_crypto_is_broken(struct vbc_dev *vbc)
{
	return vbc->crypto && virtqueue_is_broken(vbc->crypto->vq->vq);
}
