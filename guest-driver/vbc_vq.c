// SPDX-License-Identifier: GPL-2.0
/*
 * The virtqueues, from their setup to their deletion.
 */
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/virtio_config.h>

#include "virtio_blk_crypto.h"

static unsigned int vbc_max_queues;
module_param_named(num_request_queues, vbc_max_queues, uint, 0644);
MODULE_PARM_DESC(num_request_queues,
		 "Maximum number of request queues (default: 0, one per CPU)");

int vbc_init_vqs(struct vbc_dev *vbc)
{
	struct virtio_device *vdev = vbc->vdev;
	struct irq_affinity desc = { };
	struct virtqueue_info *info = NULL;
	struct virtqueue **vqs = NULL;
	bool ctrl_vq = vbc_has_ctrl_vq(vdev);
	unsigned int offered, used, total, i;
	u16 num_queues = 1;
	int err;

	virtio_cread_feature(vdev, VIRTIO_BLK_F_MQ, struct virtio_blk_config,
			     num_queues, &num_queues);
	if (!num_queues) {
		dev_err(&vdev->dev, "device has no request queue\n");
		return -EINVAL;
	}

	offered = num_queues;
	/* The tag set has the number of queues that probe found. */
	used = vbc->nr_queues ?:
	       blk_mq_num_possible_queues(min_not_zero(vbc_max_queues,
						       offered));
	if (used > offered) {
		dev_err(&vdev->dev, "number of queues changed from %u to %u\n",
			used, offered);
		return -EINVAL;
	}

	/*
	 * The control virtqueue comes after all request queues that the device
	 * offers, and transports number the virtqueues in the order of their
	 * setup.  So unused request queues are set up as well, but without a
	 * callback, and so without an interrupt vector.
	 */
	total = ctrl_vq ? offered + 1 : used;

	vbc->vqs = kcalloc(used, sizeof(*vbc->vqs), GFP_KERNEL);
	info = kcalloc(total, sizeof(*info), GFP_KERNEL);
	vqs = kcalloc(total, sizeof(*vqs), GFP_KERNEL);
	if (!vbc->vqs || !info || !vqs) {
		err = -ENOMEM;
		goto out;
	}

	for (i = 0; i < used; i++) {
		spin_lock_init(&vbc->vqs[i].lock);
		snprintf(vbc->vqs[i].name, sizeof(vbc->vqs[i].name), "req.%u",
			 i);
		info[i].name = vbc->vqs[i].name;
		info[i].callback = vbc_vq_done;
	}
	for (; i < total; i++)
		info[i].name = "unused";

	if (ctrl_vq) {
		info[total - 1].name = "control";
		info[total - 1].callback = vbc_crypto_vq_done;
		/* Its vector does not take part in the spreading over CPUs. */
		desc.post_vectors = 1;
	}

	err = virtio_find_vqs(vdev, total, vqs, info, &desc);
	if (err)
		goto out;

	for (i = 0; i < used; i++)
		vbc->vqs[i].vq = vqs[i];
	if (ctrl_vq)
		vbc_crypto_set_ctrl_vq(vbc, vqs[total - 1]);
	else if (vbc->crypto)
		vbc_crypto_set_in_band_vq(vbc);
	vbc->nr_queues = used;
out:
	kfree(vqs);
	kfree(info);
	if (err) {
		kfree(vbc->vqs);
		vbc->vqs = NULL;
	}
	return err;
}

/*
 * The device has been reset or is gone.  Take back what it has not returned, so
 * that the core unmaps it and frees the indirect tables: deleting a virtqueue
 * does neither.  The buffers must still exist, because unmapping may copy from
 * a bounce buffer.
 */
void vbc_detach_bufs(struct vbc_vq *vq)
{
	unsigned long flags;

	spin_lock_irqsave(&vq->lock, flags);
	while (virtqueue_detach_unused_buf(vq->vq))
		;
	spin_unlock_irqrestore(&vq->lock, flags);
}

void vbc_detach_all_bufs(struct vbc_dev *vbc)
{
	unsigned int i;

	if (!vbc->vqs)
		return;

	for (i = 0; i < vbc->nr_queues; i++)
		vbc_detach_bufs(&vbc->vqs[i]);
	vbc_crypto_detach_bufs(vbc);
}

/* vbc_reset_device() comes first. */
void vbc_del_vqs(struct vbc_dev *vbc)
{
	/* After a failed resume there are none, and not all transports ask. */
	if (!vbc->vqs)
		return;

	vbc->vdev->config->del_vqs(vbc->vdev);
	kfree(vbc->vqs);
	vbc->vqs = NULL;
}

bool vbc_is_broken(struct vbc_dev *vbc)
{
	unsigned int i;

	if (!vbc->vqs)
		return false;

	for (i = 0; i < vbc->nr_queues; i++)
		if (virtqueue_is_broken(vbc->vqs[i].vq))
			return true;

	return vbc_crypto_is_broken(vbc);
}
