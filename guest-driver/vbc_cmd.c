// SPDX-License-Identifier: GPL-2.0
/*
 * Commands to the device, over the control virtqueue or in-band.
 *
 * In-band access.  Behind some VMMs a device cannot offer a control virtqueue.
 * With in_band=1 the driver asks such a device whether it takes commands on its
 * request queues.  If so, the commands go straight into the ring of the first
 * request queue, and not through blk-mq: requests may be frozen or quiesced, or
 * may wait for that very key.  When the ring is full the command waits.  That
 * needs nothing but that the device completes requests, which it does with or
 * without a key.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/virtio_config.h>
#include <uapi/linux/virtio_ring.h>

#include "virtio_blk_crypto.h"
#include "vbc_crypto.h"

/* The most descriptors that a command takes: command, reply, status */
#define VBC_CMD_DESCS		3

/* How long a removal lets a command wait for room or for its answer */
#define VBC_REMOVAL_GRACE_SECS	10

/* How long a command waits while the DMA layer has no memory */
#define VBC_DMA_WAIT_SECS	10

/* Polling for longer only wastes CPU time. */
#define VBC_MAX_POLL_US		1000

/*
 * Most devices answer at once, and a file system with a key for each file or
 * extent sends many commands.  An interrupt and two context switches would take
 * longer than the command itself.
 */
static unsigned int vbc_poll_us = 50;

static int vbc_set_poll_us(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 0, VBC_MAX_POLL_US);
}

static const struct kernel_param_ops vbc_poll_us_ops = {
	.set	= vbc_set_poll_us,
	.get	= param_get_uint,
};

module_param_cb(poll_us, &vbc_poll_us_ops, &vbc_poll_us, 0644);
MODULE_PARM_DESC(poll_us,
		 "How long to poll for the answer to a command before sleeping, in microseconds (0 to 1000, default: 50; 0: sleep at once)");

int vbc_ctrl_alloc(struct vbc_crypto *vc)
{
	vc->cmd = kzalloc_obj(*vc->cmd);
	if (!vc->cmd)
		return -ENOMEM;

	mutex_init(&vc->ctrl_lock);
	init_completion(&vc->done);
	spin_lock_init(&vc->ctrl_vq.lock);
	return 0;
}

void vbc_ctrl_free(struct vbc_crypto *vc)
{
	kfree_sensitive(vc->cmd);
}

void vbc_crypto_vq_done(struct virtqueue *vq)
{
	struct vbc_dev *vbc = vq->vdev->priv;
	struct vbc_crypto *vc = vbc->crypto;
	unsigned long flags;
	unsigned int len;

	spin_lock_irqsave(&vc->ctrl_vq.lock, flags);
	while (virtqueue_get_buf(vq, &len))
		complete(&vc->done);
	spin_unlock_irqrestore(&vc->ctrl_vq.lock, flags);
}

/* A buffer came back on a request queue.  Return whether it is a command. */
bool vbc_crypto_cmd_done(struct vbc_dev *vbc, const void *token)
{
	struct vbc_crypto *vc = vbc->crypto;

	if (!vc || token != vc->cmd)
		return false;

	complete(&vc->done);
	return true;
}

/* Descriptors that requests must leave free in a ring */
unsigned int vbc_crypto_reserved_descs(struct vbc_dev *vbc)
{
	struct vbc_crypto *vc = vbc->crypto;

	return vc && vc->in_band && vc->profile_valid ? VBC_CMD_DESCS : 0;
}

static void vbc_ctrl_poll(struct vbc_crypto *vc)
{
	struct virtqueue *vq = vc->ctrl_vq.vq;
	ktime_t end = ktime_add_us(ktime_get(), READ_ONCE(vbc_poll_us));
	bool there;

	while (!completion_done(&vc->done)) {
		if (ktime_after(ktime_get(), end)) {
			/* From now on with an interrupt */
			spin_lock_irq(&vc->ctrl_vq.lock);
			there = !virtqueue_enable_cb(vq);
			spin_unlock_irq(&vc->ctrl_vq.lock);
			if (!there)
				break;
		}
		vbc_crypto_vq_done(vq);
		cpu_relax();
		cond_resched();
	}
}

/*
 * Whether a removal has waited long enough for this command.  Each command has
 * its own @end, which starts as 0: a slow device may have many commands to
 * answer.
 */
static bool vbc_ctrl_grace_over(struct vbc_crypto *vc, unsigned long *end)
{
	if (!READ_ONCE(vc->removing))
		return false;
	if (!*end)
		*end = (jiffies + VBC_REMOVAL_GRACE_SECS * HZ) ?: 1;
	return time_after(jiffies, *end);
}

static int vbc_ctrl_wait(struct vbc_crypto *vc, unsigned long *grace_end)
{
	/* In-band, the handler of the request queue finds the answer. */
	if (!vc->in_band)
		vbc_ctrl_poll(vc);

	/*
	 * Otherwise there is no limit: like a request, a command takes as long
	 * as the device takes, and a backend may be stopped for a while.
	 */
	while (!wait_for_completion_timeout(&vc->done, HZ)) {
		/*
		 * No interrupt may come: the kernel switches off one that finds
		 * nothing too often, and polling may leave it nothing.
		 */
		if (!vc->in_band)
			vbc_crypto_vq_done(vc->vq->vq);
		if (virtqueue_is_broken(vc->vq->vq))
			return -EIO;
		if (vbc_ctrl_grace_over(vc, grace_end))
			return -ETIMEDOUT;
	}
	return 0;
}

void vbc_ctrl_wipe(struct vbc_crypto *vc)
{
	memzero_explicit(&vc->cmd->payload, sizeof(vc->cmd->payload));
	memzero_explicit(&vc->cmd->reply, sizeof(vc->cmd->reply));
}

/*
 * Get the command buffer, zeroed, until vbc_ctrl_end().  -ENODEV: there is no
 * device now.  -EIO: no command is possible until the device has been reset.
 */
struct vbc_ctrl_cmd *vbc_ctrl_begin(struct vbc_crypto *vc)
{
	enum vbc_ctrl_state state;

	mutex_lock(&vc->ctrl_lock);
	state = vc->state;
	if (state == VBC_CTRL_UP) {
		vbc_ctrl_wipe(vc);
		return vc->cmd;
	}
	mutex_unlock(&vc->ctrl_lock);

	return ERR_PTR(state == VBC_CTRL_DOWN ? -ENODEV : -EIO);
}

/*
 * A device that has not answered may still read the key, and must not find half
 * of it.  It may also still write its reply.  Both are wiped after its reset.
 */
void vbc_ctrl_end(struct vbc_crypto *vc)
{
	if (vc->state != VBC_CTRL_DEAD)
		vbc_ctrl_wipe(vc);
	mutex_unlock(&vc->ctrl_lock);
}

static int vbc_ctrl_add(struct vbc_crypto *vc, struct scatterlist *sgs[],
			unsigned int nr_in, unsigned long *grace_end)
{
	unsigned long dma_end = jiffies + VBC_DMA_WAIT_SECS * HZ;
	struct vbc_vq *vq = vc->vq;
	bool notify;
	int err;

	/* A ring that is too short stays full. */
	if (!virtio_has_feature(vc->vdev, VIRTIO_RING_F_INDIRECT_DESC) &&
	    virtqueue_get_vring_size(vq->vq) < 1 + nr_in)
		return -EOPNOTSUPP;

	for (;;) {
		/*
		 * GFP_ATOMIC because of the lock.  If the indirect table cannot
		 * be allocated, the ring itself has room for the one command in
		 * flight.
		 */
		spin_lock_irq(&vq->lock);
		if (!vc->in_band)
			virtqueue_disable_cb(vq->vq);	/* see vbc_ctrl_poll() */
		err = virtqueue_add_sgs(vq->vq, sgs, 1, nr_in, vc->cmd,
					GFP_ATOMIC);
		notify = !err && virtqueue_kick_prepare(vq->vq);
		spin_unlock_irq(&vq->lock);
		if (!err)
			break;

		if (virtqueue_is_broken(vq->vq))
			return -EIO;
		/*
		 * In-band, the ring may be full of requests that took their
		 * descriptors one by one: they will complete.  Otherwise the
		 * DMA layer has no memory (-EIO if the ring is packed), which
		 * is temporary.  An error here would become one of write-back.
		 */
		if (!(vc->in_band && err == -ENOSPC) &&
		    (vc->no_dma || time_after(jiffies, dma_end))) {
			vc->no_dma = true;
			return -ENOMEM;
		}
		if (vbc_ctrl_grace_over(vc, grace_end))
			return -ETIMEDOUT;
		fsleep(USEC_PER_MSEC);
	}

	vc->no_dma = false;
	if (notify)
		virtqueue_notify(vq->vq);
	return 0;
}

/* From now on no command reaches the device. */
static void vbc_ctrl_give_up(struct vbc_crypto *vc, u32 type, int err)
{
	vc->state = VBC_CTRL_DEAD;
	dev_err(&vc->vdev->dev,
		"command %u was not answered (%d): no more keys can be programmed\n",
		type, err);
}

/*
 * Send the command and wait for the answer.  Only the first @out_len bytes of
 * its payload and the first @in_len bytes of its reply count.
 */
int vbc_ctrl_exec(struct vbc_crypto *vc, u32 type, size_t out_len,
		  size_t in_len)
{
	struct scatterlist out, in, status, *sgs[3];
	struct vbc_ctrl_cmd *cmd = vc->cmd;
	unsigned long grace_end = 0;
	unsigned int nr_in = 0;
	int err;

	lockdep_assert_held(&vc->ctrl_lock);

	cmd->hdr.type = cpu_to_virtio32(vc->vdev, type);
	cmd->hdr.ioprio = 0;
	cmd->hdr.sector = 0;
	cmd->status = VBC_STATUS_UNWRITTEN;

	sg_init_one(&out, &cmd->hdr, sizeof(cmd->hdr) + out_len);
	sgs[0] = &out;
	if (in_len) {
		sg_init_one(&in, &cmd->reply, in_len);
		sgs[1 + nr_in++] = &in;
	}
	sg_init_one(&status, &cmd->status, sizeof(cmd->status));
	sgs[1 + nr_in++] = &status;

	reinit_completion(&vc->done);

	err = vbc_ctrl_add(vc, sgs, nr_in, &grace_end);
	if (err) {
		/* The next command, and the removal, would wait as long. */
		if (err == -ETIMEDOUT) {
			vbc_ctrl_wipe(vc);
			vbc_ctrl_give_up(vc, type, err);
		}
		return err;
	}
	atomic64_inc(&vc->commands);

	err = vbc_ctrl_wait(vc, &grace_end);
	if (err) {
		vbc_ctrl_give_up(vc, type, err);
		return err;
	}

	if (cmd->status == VIRTIO_BLK_S_OK)
		return 0;

	atomic64_inc(&vc->refused);
	return cmd->status == VIRTIO_BLK_S_UNSUPP ? -EOPNOTSUPP : -EIO;
}
