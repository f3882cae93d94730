// SPDX-License-Identifier: GPL-2.0
/*
 * Hardware-wrapped keys: generate, import, prepare, derive the software secret;
 * and which types of keys the disk takes.
 *
 * The device does all of it; the kernel passes blobs on without looking into
 * them.  vbc_key.c programs wrapped keys into keyslots, as it does other keys.
 *
 * User space waits for these commands (ioctls of the disk, adding a key to a
 * file system), and blk-crypto holds the profile's lock, which I/O may need to
 * get a keyslot.  So, like programming a key, they allocate nothing.
 */
#include <linux/err.h>
#include <linux/string.h>

#include "vbc_crypto.h"

static_assert(VBC_KEY_BYTES == BLK_CRYPTO_MAX_HW_WRAPPED_KEY_SIZE);
static_assert(VBC_SW_SECRET_BYTES == BLK_CRYPTO_SW_SECRET_SIZE);

/* The size of a wrapped key from user space or the device */
static bool vbc_blob_size_ok(size_t size)
{
	return size && size <= VBC_KEY_BYTES;
}

static void vbc_fill_blob(struct vbc_key_blob *blob, const u8 *key, size_t size)
{
	blob->key_size = cpu_to_le32(size);
	memcpy(blob->key, key, size);
}

/* The size of the key, or -EIO if the device's reply cannot be a key */
static int vbc_take_blob(const struct vbc_key_blob *blob, u8 *key)
{
	/* Read once: the device shares this memory. */
	u32 size = le32_to_cpu(READ_ONCE(blob->key_size));

	if (!vbc_blob_size_ok(size))
		return -EIO;
	memcpy(key, blob->key, size);
	return size;
}

/* If the device fails a command that takes a wrapped key, that key is bad. */
static int vbc_wrapped_key_error(const struct vbc_ctrl_cmd *cmd, int err)
{
	if (err == -EIO && cmd->status == VIRTIO_BLK_S_IOERR)
		return -EBADMSG;
	return err;
}

static int vbc_derive_sw_secret(struct blk_crypto_profile *profile,
				const u8 *eph_key, size_t eph_key_size,
				u8 sw_secret[BLK_CRYPTO_SW_SECRET_SIZE])
{
	struct vbc_crypto *vc = vbc_crypto_from_profile(profile);
	struct vbc_ctrl_cmd *cmd;
	int err;

	if (!vbc_blob_size_ok(eph_key_size))
		return -EINVAL;

	cmd = vbc_ctrl_begin(vc);
	if (IS_ERR(cmd))
		return PTR_ERR(cmd);

	vbc_fill_blob(&cmd->payload.blob, eph_key, eph_key_size);
	err = vbc_ctrl_exec(vc, VBC_T_DERIVE_SW_SECRET,
			    sizeof(cmd->payload.blob),
			    sizeof(cmd->reply.secret));
	if (err) {
		err = vbc_wrapped_key_error(cmd, err);
	} else {
		memcpy(sw_secret, cmd->reply.secret.secret,
		       VBC_SW_SECRET_BYTES);
		/* The device wrote nothing: zeroes would be no secret. */
		if (!memchr_inv(sw_secret, 0, VBC_SW_SECRET_BYTES))
			err = -EIO;
	}

	vbc_ctrl_end(vc);
	return err;
}

static int vbc_import_key(struct blk_crypto_profile *profile,
			  const u8 *raw_key, size_t raw_key_size,
			  u8 lt_key[BLK_CRYPTO_MAX_HW_WRAPPED_KEY_SIZE])
{
	struct vbc_crypto *vc = vbc_crypto_from_profile(profile);
	struct vbc_ctrl_cmd *cmd;
	int ret;

	if (raw_key_size != VBC_IMPORT_BYTES)
		return -EINVAL;

	cmd = vbc_ctrl_begin(vc);
	if (IS_ERR(cmd))
		return PTR_ERR(cmd);

	vbc_fill_blob(&cmd->payload.blob, raw_key, raw_key_size);
	ret = vbc_ctrl_exec(vc, VBC_T_IMPORT_KEY, sizeof(cmd->payload.blob),
			    sizeof(cmd->reply.blob));
	if (!ret)
		ret = vbc_take_blob(&cmd->reply.blob, lt_key);

	vbc_ctrl_end(vc);
	return ret;
}

static int vbc_generate_key(struct blk_crypto_profile *profile,
			    u8 lt_key[BLK_CRYPTO_MAX_HW_WRAPPED_KEY_SIZE])
{
	struct vbc_crypto *vc = vbc_crypto_from_profile(profile);
	struct vbc_ctrl_cmd *cmd;
	int ret;

	cmd = vbc_ctrl_begin(vc);
	if (IS_ERR(cmd))
		return PTR_ERR(cmd);

	ret = vbc_ctrl_exec(vc, VBC_T_GENERATE_KEY, 0, sizeof(cmd->reply.blob));
	if (!ret)
		ret = vbc_take_blob(&cmd->reply.blob, lt_key);

	vbc_ctrl_end(vc);
	return ret;
}

static int vbc_prepare_key(struct blk_crypto_profile *profile,
			   const u8 *lt_key, size_t lt_key_size,
			   u8 eph_key[BLK_CRYPTO_MAX_HW_WRAPPED_KEY_SIZE])
{
	struct vbc_crypto *vc = vbc_crypto_from_profile(profile);
	struct vbc_ctrl_cmd *cmd;
	int ret;

	if (!vbc_blob_size_ok(lt_key_size))
		return -EINVAL;

	cmd = vbc_ctrl_begin(vc);
	if (IS_ERR(cmd))
		return PTR_ERR(cmd);

	vbc_fill_blob(&cmd->payload.blob, lt_key, lt_key_size);
	ret = vbc_ctrl_exec(vc, VBC_T_PREPARE_KEY, sizeof(cmd->payload.blob),
			    sizeof(cmd->reply.blob));
	if (ret)
		ret = vbc_wrapped_key_error(cmd, ret);
	else
		ret = vbc_take_blob(&cmd->reply.blob, eph_key);

	vbc_ctrl_end(vc);
	return ret;
}

/* One or both, by their bits */
static const char *const vbc_key_type_names[] = {
	[BLK_CRYPTO_KEY_TYPE_RAW] = "raw",
	[BLK_CRYPTO_KEY_TYPE_HW_WRAPPED] = "hardware-wrapped",
	[BLK_CRYPTO_KEY_TYPE_RAW | BLK_CRYPTO_KEY_TYPE_HW_WRAPPED] =
		"raw and hardware-wrapped",
};

/* For the log */
const char *vbc_key_types(const struct vbc_crypto *vc)
{
	return vbc_key_type_names[vc->profile.key_types_supported];
}

bool vbc_is_wrapped(const struct blk_crypto_key *key)
{
	return key->crypto_cfg.key_type == BLK_CRYPTO_KEY_TYPE_HW_WRAPPED;
}

/*
 * Take keys of the types that the device offers, by their bits in config space.
 * Return whether there is any.
 */
bool vbc_set_key_types(struct vbc_crypto *vc, u8 offered)
{
	struct blk_crypto_ll_ops *ops = &vc->profile.ll_ops;
	unsigned int types = 0;

	if (offered & VBC_CONFIG_KEY_RAW)
		types |= BLK_CRYPTO_KEY_TYPE_RAW;
	if (offered & VBC_CONFIG_KEY_HW_WRAPPED) {
		types |= BLK_CRYPTO_KEY_TYPE_HW_WRAPPED;
		ops->derive_sw_secret = vbc_derive_sw_secret;
		ops->import_key = vbc_import_key;
		ops->generate_key = vbc_generate_key;
		ops->prepare_key = vbc_prepare_key;
	}
	vc->profile.key_types_supported = types;
	return types;
}
