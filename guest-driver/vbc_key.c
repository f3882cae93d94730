// SPDX-License-Identifier: GPL-2.0
/*
 * How keys get to the device: programming and evicting keyslots, and the part of
 * a request that names a keyslot or carries the key.  Its digests are in
 * vbc_digest.c.
 *
 * If the engine has no keyslots, each request carries its key.  The copy lies in
 * the request's own memory, behind its header, from when the request is prepared
 * until it ends or is to be prepared again.  vbc_crypto_unprep_rq() wipes it
 * before anyone learns that the request has ended, and so before the owner of
 * the key can evict it.
 *
 * By protocol, a device has empty keyslots after a reset.  But some hardware
 * keeps its keys, and a key must not outlive its owner there.  So the driver
 * evicts all slots at the start and after each reset, as ufshcd and cqhci do.
 */
#include <linux/bitmap.h>
#include <linux/blk-crypto-profile.h>
#include <linux/string.h>

#include "virtio_blk_crypto.h"
#include "vbc_crypto.h"

const struct vbc_mode vbc_modes[BLK_ENCRYPTION_MODE_MAX] = {
	[BLK_ENCRYPTION_MODE_AES_256_XTS] = {
		.mode		= VBC_MODE_AES_256_XTS,
		.key_size	= 64,
	},
};

/* A wrapped key goes to the device unchanged: ephemerally wrapped. */
static bool vbc_key_size_ok(const struct blk_crypto_key *key)
{
	static_assert(sizeof(key->bytes) <= VBC_KEY_BYTES);

	if (vbc_is_wrapped(key))
		return key->size && key->size <= sizeof(key->bytes);
	return key->size == vbc_modes[key->crypto_cfg.crypto_mode].key_size;
}

static void vbc_fill_key_desc(struct vbc_key_desc *desc,
			      const struct blk_crypto_key *key,
			      unsigned int slot)
{
	const struct blk_crypto_config *cfg = &key->crypto_cfg;

	desc->slot = cpu_to_le32(slot);
	memcpy(desc->bytes, key->bytes, key->size);
	desc->key_size = cpu_to_le32(key->size);
	desc->crypto_mode = cpu_to_le32(vbc_modes[cfg->crypto_mode].mode);
	desc->key_type = cpu_to_le32(vbc_is_wrapped(key) ?
				     VBC_KEY_TYPE_HW_WRAPPED :
				     VBC_KEY_TYPE_RAW);
	desc->data_unit_size_bits = cpu_to_le32(key->data_unit_size_bits);
	desc->dun_bytes = cpu_to_le32(cfg->dun_bytes);
}

/* Program @key into the slot, or evict the slot if @key is NULL. */
static int vbc_set_keyslot(struct vbc_crypto *vc,
			   const struct blk_crypto_key *key, unsigned int slot)
{
	struct vbc_ctrl_cmd *cmd;
	struct vbc_key_desc *desc;
	int err;

	cmd = vbc_ctrl_begin(vc);
	if (cmd == ERR_PTR(-ENODEV))
		return 0;	/* see VBC_CTRL_DOWN */
	if (IS_ERR(cmd))
		return PTR_ERR(cmd);

	desc = &cmd->payload.key;
	if (key)
		vbc_fill_key_desc(desc, key, slot);
	else
		desc->slot = cpu_to_le32(slot);
	err = vbc_ctrl_exec(vc, key ? VBC_T_KEYSLOT_PROGRAM :
			    VBC_T_KEYSLOT_EVICT, sizeof(*desc), 0);
	/*
	 * Without an answer nobody knows which key the slot has.  blk-crypto
	 * believes that it is the previous one, so requests must not use it.
	 */
	if (err && vc->state == VBC_CTRL_DEAD)
		set_bit(slot, vc->refused_slots);

	vbc_ctrl_end(vc);
	return err;
}

int vbc_keyslot_program(struct blk_crypto_profile *profile,
			const struct blk_crypto_key *key, unsigned int slot)
{
	struct vbc_crypto *vc = vbc_crypto_from_profile(profile);
	bool reprogramming = READ_ONCE(vc->reprogrammer) == current;
	int err;

	/* blk-crypto passes no other sizes; this keeps the copy in bounds. */
	if (WARN_ON_ONCE(!vbc_key_size_ok(key)))
		return -EINVAL;

	if (reprogramming && test_bit(slot, vc->refused_slots))
		return 0;

	err = vbc_set_keyslot(vc, key, slot);
	if (!err)
		clear_bit(slot, vc->refused_slots);
	if (!err || !reprogramming)
		return err;

	/*
	 * blk_crypto_reprogram_all_keys() turns an error into a kernel warning.
	 * Nothing that a device does should cause a warning: log it instead,
	 * and let the requests that use the slot fail.  If the key did not
	 * reach the device, that is no refusal, and it may be tried again.
	 */
	if (err != -ENOMEM)
		set_bit(slot, vc->refused_slots);
	dev_err_ratelimited(&vc->vdev->dev,
			    "error %d putting a key back in keyslot %u\n", err,
			    slot);
	return 0;
}

int vbc_keyslot_evict(struct blk_crypto_profile *profile,
		      const struct blk_crypto_key *key, unsigned int slot)
{
	struct vbc_crypto *vc = vbc_crypto_from_profile(profile);

	clear_bit(slot, vc->refused_slots);
	return vbc_set_keyslot(vc, NULL, slot);
}

/* No request has been sent yet, so no key in the slots is needed. */
void vbc_evict_all_keys(struct vbc_crypto *vc)
{
	unsigned int slot, failed = 0;
	int err, last_err = 0;

	bitmap_zero(vc->refused_slots, vc->profile.num_slots);
	for (slot = 0; slot < vc->profile.num_slots; slot++) {
		err = vbc_set_keyslot(vc, NULL, slot);
		if (err) {
			last_err = err;
			failed++;
		}
	}
	if (failed)
		dev_warn(&vc->vdev->dev,
			 "%u keyslots cannot be evicted (%d): they may keep the keys of another driver\n",
			 failed, last_err);
}

/* Requests: those that come back NOKEY are in vbc_nokey.c */

static blk_status_t vbc_name_keyslot(struct vbc_dev *vbc, struct request *rq)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);
	struct vbc_crypto *vc = vbc->crypto;
	unsigned int slot;

	if (WARN_ON_ONCE(!rq->crypt_keyslot))
		return BLK_STS_IOERR;
	slot = blk_crypto_keyslot_index(rq->crypt_keyslot);

	/* Before the device sees the request: see vbc_nokey_work_fn(). */
	vbr->key_gen = smp_load_acquire(&vc->key_gen);

	if (unlikely(test_bit(slot, vc->refused_slots)))
		return BLK_STS_IOERR;

	vbr->hdr.type = cpu_to_virtio32(vbc->vdev, rq_data_dir(rq) == WRITE ?
					VBC_T_CRYPTO_OUT : VBC_T_CRYPTO_IN);
	vbr->msg.slot = cpu_to_le32(slot);
	vbr->prefix_len += sizeof(vbr->msg);
	return BLK_STS_OK;
}

/* The key stays valid until the last bio of the request has ended. */
static blk_status_t vbc_attach_key(struct vbc_dev *vbc, struct request *rq)
{
	const struct blk_crypto_key *key = rq->crypt_ctx->bc_key;
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);

	if (WARN_ON_ONCE(!vbc_key_size_ok(key)))
		return BLK_STS_IOERR;

	vbr->hdr.type = cpu_to_virtio32(vbc->vdev, rq_data_dir(rq) == WRITE ?
					VBC_T_CRYPTO_OUT_EXT :
					VBC_T_CRYPTO_IN_EXT);
	vbr->msg.slot = cpu_to_le32(VBC_SLOT_NONE);
	vbr->msg.flags = VBC_MSG_KEY_FOLLOWS;
	/* All zero until now, so the bytes after a short key are zero too. */
	vbc_fill_key_desc(vbr->key, key, VBC_SLOT_NONE);
	vbr->prefix_len += sizeof(vbr->msg) + sizeof(*vbr->key);
	return BLK_STS_OK;
}

blk_status_t vbc_crypto_prep_rq(struct vbc_dev *vbc, struct request *rq)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);
	blk_status_t sts;
	int i;

	if (WARN_ON_ONCE(!vbc->crypto || !vbc->crypto->profile_valid))
		return BLK_STS_IOERR;

	memset(&vbr->msg, 0, sizeof(vbr->msg));
	BUILD_BUG_ON(ARRAY_SIZE(vbr->msg.dun) != BLK_CRYPTO_DUN_ARRAY_SIZE);
	for (i = 0; i < BLK_CRYPTO_DUN_ARRAY_SIZE; i++)
		vbr->msg.dun[i] = cpu_to_le64(rq->crypt_ctx->bc_dun[i]);

	sts = vbc_crypto_keys_in_rqs(vbc) ? vbc_attach_key(vbc, rq) :
					    vbc_name_keyslot(vbc, rq);
	return sts ?: vbc_digests_prep_rq(vbc, rq);
}

/* The device has carried out the request. */
void vbc_crypto_finish_rq(struct request *rq)
{
	vbc_digests_return(rq);
}

/* The device has returned the request, or never got it. */
void vbc_crypto_unprep_rq(struct request *rq)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);

	vbc_digests_unprep_rq(rq);
	if (vbr->prefix_len > sizeof(vbr->hdr) + sizeof(vbr->msg))
		memzero_explicit(vbr->key, sizeof(*vbr->key));
}
