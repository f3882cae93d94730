// SPDX-License-Identifier: GPL-2.0
/*
 * Digests of the ciphertext: requests that ask the device for them.
 *
 * Compiled only if the kernel has the interface: see Kbuild.
 *
 * A request has one array of digests: blk-crypto merges bios only if their
 * arrays are adjacent.  The array may be in memory that cannot be used for DMA,
 * so the device writes to a buffer.  When the request has succeeded, the driver
 * copies the digests to the array.  A retried request gets another buffer.
 *
 * Write-back that frees memory may need such a buffer.  So the driver reserves
 * one that is large enough for every request.  If that is in use as well, the
 * request waits until another one ends.
 */
#include <linux/bits.h>
#include <linux/blk-crypto-profile.h>
#include <linux/mempool.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <linux/string.h>

#include "virtio_blk_crypto.h"
#include "vbc_crypto.h"

/* Maximum for a request; the queue limits ensure that it is enough. */
#define VBC_MAX_DIGEST_BYTES	SZ_64K

static const u8 vbc_digests[BLK_CRYPTO_DIGEST_MAX] = {
	[BLK_CRYPTO_DIGEST_CRC32C]	= VBC_DIGEST_CRC32C,
	[BLK_CRYPTO_DIGEST_XXHASH64]	= VBC_DIGEST_XXHASH64,
	[BLK_CRYPTO_DIGEST_SHA256]	= VBC_DIGEST_SHA256,
	[BLK_CRYPTO_DIGEST_BLAKE2B_256]	= VBC_DIGEST_BLAKE2B_256,
};

void vbc_digests_init(struct vbc_crypto *vc, u32 offered)
{
	unsigned int supported = 0;
	int i;

	for (i = 0; i < BLK_CRYPTO_DIGEST_MAX; i++)
		if (vbc_digests[i] && (offered & BIT(vbc_digests[i])))
			supported |= BIT(i);
	if (!supported)
		return;

	vc->digest_pool = mempool_create_kmalloc_pool(1, VBC_MAX_DIGEST_BYTES);
	if (vc->digest_pool)
		vc->profile.digests_supported = supported;
	else
		dev_warn(&vc->vdev->dev, "no memory for digests\n");
}

void vbc_digests_exit(struct vbc_crypto *vc)
{
	mempool_destroy(vc->digest_pool);
}

/* @units: mask of the data unit sizes that the disk offers */
void vbc_digests_adjust_limits(struct vbc_crypto *vc, struct queue_limits *lim,
			       unsigned int units)
{
	unsigned int max_digests;
	u64 max_sectors;

	if (!vc->profile.digests_supported)
		return;

	/* The digests are one segment. */
	max_digests = min_t(unsigned int, VBC_MAX_DIGEST_BYTES,
			    lim->max_segment_size) / BLK_CRYPTO_MAX_DIGEST_SIZE;
	max_sectors = (u64)max_digests << __ffs(units) >> SECTOR_SHIFT;

	/* The smallest limit that the block layer accepts, and a data unit */
	if (max_sectors < max_t(unsigned int, PAGE_SECTORS,
				rounddown_pow_of_two(units) >> SECTOR_SHIFT)) {
		vc->profile.digests_supported = 0;
		return;
	}
	/* The digests need a descriptor, too, which a ring may not have. */
	if (lim->max_segments > 1) {
		lim->max_segments--;
	} else if (!virtio_has_feature(vc->vdev, VIRTIO_RING_F_INDIRECT_DESC)) {
		vc->profile.digests_supported = 0;
		return;
	}
	lim->max_hw_sectors = min_t(u64, lim->max_hw_sectors, max_sectors);
}

/* Called last, when the rest of the request is prepared. */
blk_status_t vbc_digests_prep_rq(struct vbc_dev *vbc, struct request *rq)
{
	const struct bio_crypt_ctx *bc = rq->crypt_ctx;
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);
	size_t len;

	if (!bc->bc_digests)
		return BLK_STS_OK;

	len = (size_t)(blk_rq_bytes(rq) >> bc->bc_key->data_unit_size_bits) *
	      bc->bc_key->digest_size;
	if (WARN_ON_ONCE(!len || len > VBC_MAX_DIGEST_BYTES))
		return BLK_STS_IOERR;

	vbr->digests_pooled = false;
	vbr->digests = kzalloc(len, GFP_NOWAIT | __GFP_NOWARN);
	if (unlikely(!vbr->digests)) {
		vbr->digests = mempool_alloc_preallocated(vbc->crypto->digest_pool);
		if (!vbr->digests)
			return BLK_STS_RESOURCE;
		memset(vbr->digests, 0, len);
		vbr->digests_pooled = true;
	}
	vbr->digests_len = len;

	vbr->hdr.type = cpu_to_virtio32(vbc->vdev, rq_data_dir(rq) == WRITE ?
					VBC_T_CRYPTO_OUT_EXT :
					VBC_T_CRYPTO_IN_EXT);
	vbr->msg.digest = vbc_digests[bc->bc_key->crypto_cfg.digest];
	return BLK_STS_OK;
}

/* The request has succeeded. */
void vbc_digests_return(struct request *rq)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);

	if (vbr->digests_len)
		memcpy(rq->crypt_ctx->bc_digests, vbr->digests,
		       vbr->digests_len);
}

void vbc_digests_unprep_rq(struct request *rq)
{
	struct vbc_dev *vbc = rq->q->queuedata;
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);

	if (!vbr->digests_len)
		return;

	if (unlikely(vbr->digests_pooled))
		mempool_free(vbr->digests, vbc->crypto->digest_pool);
	else
		kfree(vbr->digests);
	vbr->digests_len = 0;
}
