// SPDX-License-Identifier: GPL-2.0
/*
 * Block requests, from the block layer to a virtqueue and back.
 *
 * A request is a readable part and then a writable part, whose last byte is the
 * status.  A request that was submitted to the device completes only through
 * vbc_complete_rq().
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>
#include <uapi/linux/virtio_ring.h>

#include "virtio_blk_crypto.h"

static unsigned int vbc_depth;
module_param_named(queue_depth, vbc_depth, uint, 0444);
MODULE_PARM_DESC(queue_depth,
		 "Maximum number of requests in a queue (default: 0, as many as fill the ring)");

static struct vbc_vq *vbc_hctx_vq(struct blk_mq_hw_ctx *hctx)
{
	struct vbc_dev *vbc = hctx->queue->queuedata;

	/* After a failed resume the disk has no virtqueues. */
	if (unlikely(!vbc->vqs))
		return NULL;

	return &vbc->vqs[hctx->queue_num];
}

static blk_status_t vbc_status_to_blk(u8 status)
{
	switch (status) {
	case VIRTIO_BLK_S_OK:
		return BLK_STS_OK;
	case VIRTIO_BLK_S_UNSUPP:
		return BLK_STS_NOTSUPP;
	default:
		return BLK_STS_IOERR;
	}
}

static blk_status_t vbc_errno_to_blk(int err)
{
	/*
	 * No need to stop the queue when the ring is full: BLK_STS_RESOURCE
	 * makes blk-mq retry soon, or when a request of this queue ends.
	 */
	if (err == -ENOSPC || err == -ENOMEM)
		return BLK_STS_RESOURCE;

	return BLK_STS_IOERR;
}

static void vbc_set_range(struct virtio_blk_discard_write_zeroes *range,
			  sector_t sector, unsigned int sectors, u32 flags)
{
	range->sector = cpu_to_le64(sector);
	range->num_sectors = cpu_to_le32(sectors);
	range->flags = cpu_to_le32(flags);
}

/* The ranges of a discard, write-zeroes or secure erase are its data. */
static blk_status_t vbc_prep_ranges(struct request *rq, u32 flags)
{
	struct virtio_blk_discard_write_zeroes *range;
	unsigned int nr = 1, n = 0;
	struct bio *bio;

	/* Of these, the block layer merges only discards across gaps. */
	if (req_op(rq) == REQ_OP_DISCARD &&
	    queue_max_discard_segments(rq->q) > 1)
		nr = blk_rq_count_bios(rq);

	range = kmalloc_array(nr, sizeof(*range), GFP_ATOMIC);
	if (!range)
		return BLK_STS_RESOURCE;

	if (nr == 1) {
		vbc_set_range(range, blk_rq_pos(rq), blk_rq_sectors(rq), flags);
	} else {
		__rq_for_each_bio(bio, rq)
			vbc_set_range(&range[n++], bio->bi_iter.bi_sector,
				      bio_sectors(bio), flags);
	}

	bvec_set_virt(&rq->special_vec, range, nr * sizeof(*range));
	rq->rq_flags |= RQF_SPECIAL_PAYLOAD;
	return BLK_STS_OK;
}

static void vbc_free_ranges(struct request *rq)
{
	if (rq->rq_flags & RQF_SPECIAL_PAYLOAD) {
		kfree(bvec_virt(&rq->special_vec));
		rq->rq_flags &= ~RQF_SPECIAL_PAYLOAD;
	}
}

static blk_status_t vbc_prep_hdr(struct vbc_dev *vbc, struct request *rq)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);
	blk_status_t sts = BLK_STS_OK;
	u64 sector = 0;
	u32 type;

	vbr->prefix_len = sizeof(vbr->hdr);
	vbr->digests_len = 0;

	switch (req_op(rq)) {
	case REQ_OP_READ:
		type = VIRTIO_BLK_T_IN;
		sector = blk_rq_pos(rq);
		break;
	case REQ_OP_WRITE:
		type = VIRTIO_BLK_T_OUT;
		sector = blk_rq_pos(rq);
		break;
	case REQ_OP_FLUSH:
		type = VIRTIO_BLK_T_FLUSH;
		break;
	case REQ_OP_DISCARD:
		type = VIRTIO_BLK_T_DISCARD;
		sts = vbc_prep_ranges(rq, 0);
		break;
	case REQ_OP_WRITE_ZEROES:
		type = VIRTIO_BLK_T_WRITE_ZEROES;
		sts = vbc_prep_ranges(rq, rq->cmd_flags & REQ_NOUNMAP ? 0 :
				      VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
		break;
	case REQ_OP_SECURE_ERASE:
		type = VIRTIO_BLK_T_SECURE_ERASE;
		sts = vbc_prep_ranges(rq, 0);
		break;
	case REQ_OP_DRV_IN:
		/* vbc_get_id() has written the header */
		return BLK_STS_OK;
	default:
		return BLK_STS_NOTSUPP;
	}

	vbr->hdr.type = cpu_to_virtio32(vbc->vdev, type);
	vbr->hdr.ioprio = cpu_to_virtio32(vbc->vdev, req_get_ioprio(rq));
	vbr->hdr.sector = cpu_to_virtio64(vbc->vdev, sector);

	/*
	 * Only the context decides: data to encrypt must never go out plain.
	 * This sets another type, or fails.
	 */
	if (vbc_rq_is_encrypted(rq) &&
	    (req_op(rq) == REQ_OP_READ || req_op(rq) == REQ_OP_WRITE))
		sts = vbc_crypto_prep_rq(vbc, rq);

	return sts;
}

static blk_status_t vbc_map_data(struct request *rq)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);
	unsigned int nr = blk_rq_nr_phys_segments(rq);

	vbr->sgt.nents = 0;
	if (!nr)
		return BLK_STS_OK;

	vbr->sgt.sgl = vbr->sg;
	if (sg_alloc_table_chained(&vbr->sgt, nr, vbr->sgt.sgl, VBC_INLINE_SG))
		return BLK_STS_RESOURCE;

	vbr->sgt.nents = blk_rq_map_sg(rq, vbr->sgt.sgl);
	return BLK_STS_OK;
}

/* Undo vbc_prep_rq(): the request ends, or is prepared again later. */
static void vbc_unprep_rq(struct request *rq)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);

	if (blk_rq_nr_phys_segments(rq))
		sg_free_table_chained(&vbr->sgt, VBC_INLINE_SG);
	vbc_crypto_unprep_rq(rq);
	vbc_free_ranges(rq);
}

static blk_status_t vbc_prep_rq(struct vbc_dev *vbc, struct request *rq)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);
	blk_status_t sts;

	/* A requeued request keeps this flag, and so its NOKEY history. */
	if (!(rq->rq_flags & RQF_DONTPREP)) {
		vbr->nokeys = 0;
		rq->rq_flags |= RQF_DONTPREP;
	}
	vbr->status = VBC_STATUS_UNWRITTEN;

	sts = vbc_prep_hdr(vbc, rq);
	if (sts == BLK_STS_OK)
		sts = vbc_map_data(rq);
	if (sts != BLK_STS_OK) {
		vbc_crypto_unprep_rq(rq);
		vbc_free_ranges(rq);
		return sts;
	}

	blk_mq_start_request(rq);
	return BLK_STS_OK;
}

static int vbc_add_rq(struct vbc_vq *vq, struct vbc_req *vbr)
{
	struct request *rq = blk_mq_rq_from_pdu(vbr);
	struct scatterlist prefix, digests, status, *sgs[4];
	unsigned int out = 0, in = 0;

	sg_init_one(&prefix, &vbr->hdr, vbr->prefix_len);
	sgs[out++] = &prefix;

	if (vbr->sgt.nents) {
		if (rq_data_dir(rq) == WRITE)
			sgs[out++] = vbr->sgt.sgl;
		else
			sgs[out + in++] = vbr->sgt.sgl;
	}

	if (vbr->digests_len) {
		sg_init_one(&digests, vbr->digests, vbr->digests_len);
		sgs[out + in++] = &digests;
	}

	sg_init_one(&status, &vbr->status, sizeof(vbr->status));
	sgs[out + in++] = &status;

	return virtqueue_add_sgs(vq->vq, sgs, out, in, vbr, GFP_ATOMIC);
}

static blk_status_t vbc_queue_rq(struct blk_mq_hw_ctx *hctx,
				 const struct blk_mq_queue_data *bd)
{
	struct vbc_dev *vbc = hctx->queue->queuedata;
	struct vbc_vq *vq = vbc_hctx_vq(hctx);
	struct request *rq = bd->rq;
	bool notify = false;
	unsigned long flags;
	blk_status_t sts;
	int err;

	if (unlikely(!vq))
		return BLK_STS_IOERR;

	sts = vbc_prep_rq(vbc, rq);
	if (unlikely(sts != BLK_STS_OK))
		return sts;

	spin_lock_irqsave(&vq->lock, flags);
	err = vbc_add_rq(vq, blk_mq_rq_to_pdu(rq));
	/* When the ring is full, requests in it must not wait for a kick. */
	if (bd->last || err)
		notify = virtqueue_kick_prepare(vq->vq);
	spin_unlock_irqrestore(&vq->lock, flags);

	if (notify)
		virtqueue_notify(vq->vq);

	if (unlikely(err)) {
		vbc_unprep_rq(rq);
		/* A packed ring has this error when DMA memory is short. */
		if (err == -EIO && !virtqueue_is_broken(vq->vq))
			err = -ENOMEM;
		return vbc_errno_to_blk(err);
	}

	return BLK_STS_OK;
}

static void vbc_commit_rqs(struct blk_mq_hw_ctx *hctx)
{
	struct vbc_dev *vbc = hctx->queue->queuedata;
	unsigned long flags;
	struct vbc_vq *vq;
	bool notify;

	/*
	 * blk-mq also calls this while the queue is quiesced, for requests that
	 * it has put aside.  Then the virtqueues may come and go, and no
	 * request is in them.
	 */
	smp_rmb(); /* after the queue was seen to run; pairs with vbc_thaw() */
	if (unlikely(READ_ONCE(vbc->frozen)))
		return;

	vq = vbc_hctx_vq(hctx);
	if (unlikely(!vq))
		return;

	spin_lock_irqsave(&vq->lock, flags);
	notify = virtqueue_kick_prepare(vq->vq);
	spin_unlock_irqrestore(&vq->lock, flags);

	if (notify)
		virtqueue_notify(vq->vq);
}

/* Submit prepared requests that all belong to one virtqueue. */
static void vbc_add_batch(struct vbc_vq *vq, struct rq_list *list)
{
	struct request *rq;
	unsigned long flags;
	bool notify;

	spin_lock_irqsave(&vq->lock, flags);
	while ((rq = rq_list_pop(list))) {
		if (unlikely(vbc_add_rq(vq, blk_mq_rq_to_pdu(rq)))) {
			/* vbc_queue_rq() will find out why, if it fails again */
			vbc_unprep_rq(rq);
			blk_mq_requeue_request(rq, true);
		}
	}
	notify = virtqueue_kick_prepare(vq->vq);
	spin_unlock_irqrestore(&vq->lock, flags);

	if (notify)
		virtqueue_notify(vq->vq);
}

static void vbc_queue_rqs(struct rq_list *list)
{
	struct rq_list batch = { }, rest = { };
	struct vbc_vq *batch_vq = NULL;
	struct request *rq;

	while ((rq = rq_list_pop(list))) {
		struct vbc_vq *vq = vbc_hctx_vq(rq->mq_hctx);

		/* The rest go one by one through vbc_queue_rq(). */
		if (unlikely(!vq) ||
		    vbc_prep_rq(rq->q->queuedata, rq) != BLK_STS_OK) {
			rq_list_add_tail(&rest, rq);
			continue;
		}

		if (batch_vq && batch_vq != vq)
			vbc_add_batch(batch_vq, &batch);
		batch_vq = vq;
		rq_list_add_tail(&batch, rq);
	}

	if (batch_vq)
		vbc_add_batch(batch_vq, &batch);
	*list = rest;
}

static void vbc_complete_rq(struct request *rq)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);
	struct vbc_dev *vbc = rq->q->queuedata;

	if (likely(vbr->status == VIRTIO_BLK_S_OK))
		vbc_crypto_finish_rq(rq);
	vbc_unprep_rq(rq);

	if (unlikely(vbr->status == VBC_S_NOKEY) &&
	    vbc_crypto_retry_rq(vbc, rq))
		return;

	blk_mq_end_request(rq, vbc_status_to_blk(vbr->status));
}

/* The callback of a request queue */
void vbc_vq_done(struct virtqueue *vq)
{
	struct vbc_dev *vbc = vq->vdev->priv;
	struct vbc_vq *vbq = &vbc->vqs[vq->index];
	unsigned long flags;
	unsigned int len;
	void *token;

	spin_lock_irqsave(&vbq->lock, flags);
	do {
		virtqueue_disable_cb(vq);
		while ((token = virtqueue_get_buf(vq, &len))) {
			struct request *rq;

			if (unlikely(vbc_crypto_cmd_done(vbc, token)))
				continue;

			rq = blk_mq_rq_from_pdu(token);
			if (likely(!blk_should_fake_timeout(rq->q)))
				blk_mq_complete_request(rq);
		}
	} while (!virtqueue_enable_cb(vq));
	spin_unlock_irqrestore(&vbq->lock, flags);
}

static void vbc_map_queues(struct blk_mq_tag_set *set)
{
	struct blk_mq_queue_map *map = &set->map[HCTX_TYPE_DEFAULT];
	struct vbc_dev *vbc = set->driver_data;

	map->nr_queues = vbc->nr_queues;
	map->queue_offset = 0;
	/* Follows the vectors' affinity; without MSI-X, spreads evenly. */
	blk_mq_map_hw_queues(map, &vbc->vdev->dev, 0);
}

const struct blk_mq_ops vbc_mq_ops = {
	.queue_rq	= vbc_queue_rq,
	.queue_rqs	= vbc_queue_rqs,
	.commit_rqs	= vbc_commit_rqs,
	.complete	= vbc_complete_rq,
	.map_queues	= vbc_map_queues,
};

/* As many requests as fill the ring, unless the user says otherwise */
unsigned int vbc_queue_depth(struct vbc_dev *vbc)
{
	unsigned int depth = vbc->vqs[0].vq->num_free;
	unsigned int reserved = vbc_crypto_reserved_descs(vbc);

	if (vbc_depth)
		return vbc_depth;

	depth -= min(depth, reserved);

	/* Without indirect descriptors each request takes at least these. */
	if (!virtio_has_feature(vbc->vdev, VIRTIO_RING_F_INDIRECT_DESC))
		depth /= VBC_RQ_DESCS;

	return max(depth, 1u);
}

static bool vbc_abort_rq(struct request *rq, void *data)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);

	if (blk_mq_request_started(rq) && !blk_mq_request_completed(rq)) {
		vbr->status = VIRTIO_BLK_S_IOERR;
		blk_mq_complete_request(rq);
	}
	return true;
}

/*
 * Fail requests that a broken device will never complete, so that removal does
 * not wait for them.  The reset comes first: only then the buffers belong to
 * the guest.
 */
void vbc_abort_requests(struct vbc_dev *vbc)
{
	struct request_queue *q = vbc->disk->queue;

	/* From here on nothing enters the rings... */
	blk_mq_quiesce_queue(q);
	virtio_break_device(vbc->vdev);
	/* ...and no callback can complete a request that is about to fail. */
	virtio_synchronize_cbs(vbc->vdev);
	vbc_reset_device(vbc);

	blk_mq_tagset_busy_iter(&vbc->tag_set, vbc_abort_rq, NULL);
	blk_mq_tagset_wait_completed_request(&vbc->tag_set);

	/* The rings stay broken: new requests fail in vbc_queue_rq(). */
	blk_mq_unquiesce_queue(q);
}

/* @id has room for VIRTIO_BLK_ID_BYTES; it may come back unterminated. */
int vbc_get_id(struct vbc_dev *vbc, char *id)
{
	struct request *rq;
	struct vbc_req *vbr;
	int err;

	rq = blk_mq_alloc_request(vbc->disk->queue, REQ_OP_DRV_IN, 0);
	if (IS_ERR(rq))
		return PTR_ERR(rq);

	vbr = blk_mq_rq_to_pdu(rq);
	vbr->hdr.type = cpu_to_virtio32(vbc->vdev, VIRTIO_BLK_T_GET_ID);
	vbr->hdr.ioprio = 0;
	vbr->hdr.sector = 0;

	err = blk_rq_map_kern(rq, id, VIRTIO_BLK_ID_BYTES, GFP_KERNEL);
	if (!err)
		err = blk_status_to_errno(blk_execute_rq(rq, false));

	blk_mq_free_request(rq);
	return err;
}
