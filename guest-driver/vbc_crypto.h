/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What vbc_crypto.c and vbc_wrapped.c share: commands to the device.
 *
 *	cmd = vbc_ctrl_begin(vc);
 *	if (IS_ERR(cmd))
 *		return PTR_ERR(cmd);
 *	(fill cmd->payload)
 *	err = vbc_ctrl_exec(vc, type, size of payload, size of reply);
 *	(if all is well, read cmd->reply)
 *	vbc_ctrl_end(vc);
 */
#ifndef VBC_CRYPTO_H
#define VBC_CRYPTO_H

#include <linux/blk-crypto-profile.h>
#include <linux/cache.h>

#include "virtio_blk_crypto_proto.h"

struct vbc_crypto;

/*
 * One command at a time is under way, so there is one buffer; having it at hand
 * means that programming a key for a write-back needs no memory.
 */
struct vbc_ctrl_cmd {
	/* readable by the device: on the wire the payload follows the header */
	struct virtio_blk_outhdr hdr;
	union {
		struct vbc_key_desc key;
		struct vbc_key_blob blob;
	} payload;

	/* writable: kept off the cache lines of the readable part */
	union {
		struct vbc_characteristics characteristics;
		struct vbc_crypto_modes modes;
		struct vbc_key_blob blob;
		struct vbc_sw_secret secret;
	} reply ____cacheline_aligned;
	u8 status;
};

static_assert(offsetof(struct vbc_ctrl_cmd, payload) ==
	      sizeof(struct virtio_blk_outhdr));

/* vbc_crypto.c */
struct vbc_crypto *vbc_crypto_from_profile(struct blk_crypto_profile *profile);
struct vbc_ctrl_cmd *vbc_ctrl_begin(struct vbc_crypto *vc);
int vbc_ctrl_exec(struct vbc_crypto *vc, u32 type, size_t out_len,
		  size_t in_len);
void vbc_ctrl_end(struct vbc_crypto *vc);

/* vbc_wrapped.c: for struct blk_crypto_ll_ops */
int vbc_derive_sw_secret(struct blk_crypto_profile *profile,
			 const u8 *eph_key, size_t eph_key_size,
			 u8 sw_secret[BLK_CRYPTO_SW_SECRET_SIZE]);
int vbc_import_key(struct blk_crypto_profile *profile, const u8 *raw_key,
		   size_t raw_key_size,
		   u8 lt_key[BLK_CRYPTO_MAX_HW_WRAPPED_KEY_SIZE]);
int vbc_generate_key(struct blk_crypto_profile *profile,
		     u8 lt_key[BLK_CRYPTO_MAX_HW_WRAPPED_KEY_SIZE]);
int vbc_prepare_key(struct blk_crypto_profile *profile, const u8 *lt_key,
		    size_t lt_key_size,
		    u8 eph_key[BLK_CRYPTO_MAX_HW_WRAPPED_KEY_SIZE]);

#endif /* VBC_CRYPTO_H */
