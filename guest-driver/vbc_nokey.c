// SPDX-License-Identifier: GPL-2.0
/*
 * Keys that the device has lost.
 *
 * A device that was reset, or whose backend was restarted, has empty keyslots.
 * After a reset by the driver, vbc_crypto_resume() programs the keys before any
 * request goes out.  Otherwise the driver learns of the loss when a request
 * ends with NOKEY.  Such requests are collected.  A work item programs all keys
 * again, once for all of these requests, and then requeues them.  A backend may
 * be restarted again meanwhile, so each request is retried a few times; after
 * that NOKEY is an I/O error.
 *
 * If the device refuses to take a key back, every request that uses the key
 * would report a loss again, and every loss would program all other keys again.
 * So the slot is marked, and requests that use it fail before they reach the
 * device.
 *
 * This cannot deadlock.  Programming waits for the device only, and the device
 * does not wait for the requests that are collected here: for it they have
 * ended.  Nothing on this path allocates memory that must be written back
 * first.
 *
 * A device without keyslots has no keys to lose, so none of this happens.
 */
#include <linux/blk-crypto-profile.h>
#include <linux/list.h>
#include <linux/workqueue.h>

#include "virtio_blk_crypto.h"
#include "vbc_crypto.h"

/* How many times a request that came back NOKEY is retried */
#define VBC_MAX_NOKEYS		8

static struct workqueue_struct *vbc_nokey_wq;

void vbc_reprogram_all_keys(struct vbc_crypto *vc)
{
	WRITE_ONCE(vc->reprogrammer, current);
	blk_crypto_reprogram_all_keys(&vc->profile);
	WRITE_ONCE(vc->reprogrammer, NULL);

	/* After the keys: a reader of the new number relies on these keys. */
	smp_store_release(&vc->key_gen, vc->key_gen + 1);
}

/*
 * A request came back NOKEY.  Return true to keep it for a retry.  It keeps its
 * keyslot, so the slot cannot get another key meanwhile.  Any context.
 */
bool vbc_crypto_retry_rq(struct vbc_dev *vbc, struct request *rq)
{
	struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);
	struct vbc_crypto *vc = vbc->crypto;
	unsigned long flags;

	/* From a device without keyslots NOKEY is an error like any other. */
	if (!rq->crypt_keyslot)
		return false;

	if (vbr->nokeys >= VBC_MAX_NOKEYS) {
		dev_err_ratelimited(&vbc->vdev->dev,
				    "keyslot %u is still empty after all keys were programmed\n",
				    le32_to_cpu(vbr->msg.slot));
		return false;
	}
	vbr->nokeys++;
	atomic64_inc(&vc->nokey_retries);

	spin_lock_irqsave(&vc->nokey_lock, flags);
	list_add_tail(&rq->queuelist, &vc->nokey_list);
	/* Under the lock: once the request has ended, @vc may go at any time. */
	queue_work(vbc_nokey_wq, &vc->nokey_work);
	spin_unlock_irqrestore(&vc->nokey_lock, flags);

	return true;
}

static void vbc_nokey_work_fn(struct work_struct *work)
{
	struct vbc_crypto *vc = container_of(work, struct vbc_crypto,
					     nokey_work);
	struct request_queue *q = NULL;
	struct request *rq, *next;
	bool lost = false;
	LIST_HEAD(list);

	spin_lock_irq(&vc->nokey_lock);
	list_splice_init(&vc->nokey_list, &list);
	spin_unlock_irq(&vc->nokey_lock);

	/*
	 * A request that was sent before keys were last programmed only came
	 * too early: its key is there now.  A request that was sent later
	 * reports a new loss.  Nothing else programs all keys while there are
	 * requests.
	 */
	list_for_each_entry(rq, &list, queuelist) {
		struct vbc_req *vbr = blk_mq_rq_to_pdu(rq);

		lost |= vbr->key_gen == vc->key_gen;
	}

	if (lost) {
		dev_warn_ratelimited(&vc->vdev->dev,
				     "device lost its keys: programming all of them\n");
		atomic64_inc(&vc->reprograms);
		vbc_reprogram_all_keys(vc);
	}

	list_for_each_entry_safe(rq, next, &list, queuelist) {
		q = rq->q;
		list_del_init(&rq->queuelist);
		blk_mq_requeue_request(rq, false);
	}
	if (q)
		blk_mq_kick_requeue_list(q);
}

void vbc_nokey_init(struct vbc_crypto *vc)
{
	spin_lock_init(&vc->nokey_lock);
	INIT_LIST_HEAD(&vc->nokey_list);
	INIT_WORK(&vc->nokey_work, vbc_nokey_work_fn);
}

int vbc_crypto_module_init(void)
{
	/* WQ_MEM_RECLAIM, because write-back may wait for this work. */
	vbc_nokey_wq = alloc_workqueue("vbc_nokey", WQ_UNBOUND | WQ_MEM_RECLAIM,
				       0);
	return vbc_nokey_wq ? 0 : -ENOMEM;
}

void vbc_crypto_module_exit(void)
{
	destroy_workqueue(vbc_nokey_wq);
}
