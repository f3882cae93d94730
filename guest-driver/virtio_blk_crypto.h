/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of the driver share.
 *
 *   vbc_main.c    negotiation, probe, removal, suspend
 *   vbc_vq.c      virtqueues: setup, what a reset leaves, deletion
 *   vbc_queue.c   block requests
 *   vbc_disk.c    config space: limits, capacity, name, sysfs
 *   vbc_crypto.c  inline encryption: a blk_crypto_profile
 *   vbc_key.c     how keys get to the device
 *   vbc_cmd.c     commands to the device
 *   vbc_nokey.c   keys that the device has lost
 *   vbc_wrapped.c hardware-wrapped keys: generate, import, prepare, derive
 *   vbc_digest.c  digests of the ciphertext
 *   vbc_stats.c   counters of commands and keys, in sysfs
 *
 * Only the last seven know keys (vbc_crypto.h has what they share).  They do not
 * know sectors.
 */
#ifndef VIRTIO_BLK_CRYPTO_H
#define VIRTIO_BLK_CRYPTO_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/scatterlist.h>
#include <linux/spinlock.h>
#include <linux/virtio.h>
#include <linux/workqueue.h>

#include "virtio_blk_crypto_proto.h"

#ifdef CONFIG_ARCH_NO_SG_CHAIN
#define VBC_INLINE_SG	0
#else
#define VBC_INLINE_SG	2
#endif

/* No device writes this: a chain that comes back with it was not served. */
#define VBC_STATUS_UNWRITTEN	0xff

/* Of a request beside its data: for header and status */
#define VBC_RQ_DESCS		2u

struct vbc_crypto;

struct vbc_vq {
	struct virtqueue *vq;
	spinlock_t lock;	/* serialises all use of vq */
	char name[16];
} ____cacheline_aligned_in_smp;

struct vbc_dev {
	struct virtio_device *vdev;
	struct gendisk *disk;
	struct blk_mq_tag_set tag_set;
	struct work_struct config_work;
	int index;

	/* NULL while suspended, and after a failed resume */
	struct vbc_vq *vqs;
	unsigned int nr_queues;		/* request queues in use */
	bool frozen;			/* the block queue is quiesced */

	/* NULL if the disk can only be plain */
	struct vbc_crypto *crypto;

	struct {
		u16 cylinders;
		u8 heads;
		u8 sectors;
	} geo;				/* all 0: the device has none */
};

/* The driver's part of a block request */
struct vbc_req {
	u8 nokeys;		/* how often it came back NOKEY */
	u16 prefix_len;
	u32 key_gen;		/* vbc_nokey.c: age of the keys it relied on */

	/* vbc_digest.c: where the device writes digests; digests_len may be 0 */
	bool digests_pooled;
	u32 digests_len;
	void *digests;

	struct sg_table sgt;
	struct scatterlist sg[VBC_INLINE_SG];

	/* The device writes it: keep it apart from what the CPU writes then. */
	u8 status;

	/*
	 * The readable prefix: the header; in an encrypted request also the
	 * message; in one that carries its key also the key.  On the wire they
	 * directly follow each other, so the first prefix_len bytes from here
	 * are mapped as one buffer.  Only disks whose requests carry keys have
	 * room for one: see vbc_crypto_keys_in_rqs().
	 */
	struct virtio_blk_outhdr hdr;
	struct vbc_crypto_msg msg;
	struct vbc_key_desc key[];
};

static_assert(offsetof(struct vbc_req, msg) ==
	      offsetof(struct vbc_req, hdr) + sizeof(struct virtio_blk_outhdr));
static_assert(offsetof(struct vbc_req, key) ==
	      offsetof(struct vbc_req, msg) + sizeof(struct vbc_crypto_msg));

/* vbc_vq.c */
int vbc_init_vqs(struct vbc_dev *vbc);
void vbc_detach_bufs(struct vbc_vq *vq);
void vbc_detach_all_bufs(struct vbc_dev *vbc);
void vbc_del_vqs(struct vbc_dev *vbc);
bool vbc_is_broken(struct vbc_dev *vbc);

/* vbc_queue.c */
extern const struct blk_mq_ops vbc_mq_ops;
void vbc_vq_done(struct virtqueue *vq);
unsigned int vbc_queue_depth(struct vbc_dev *vbc);
void vbc_abort_requests(struct vbc_dev *vbc);
int vbc_get_id(struct vbc_dev *vbc, char *id);

/* vbc_disk.c */
extern const struct block_device_operations vbc_fops;
extern const struct attribute_group *vbc_attr_groups[];
int vbc_check_disk_prefix(void);
int vbc_choose_name(struct vbc_dev *vbc, char *name, size_t size);
void vbc_release_name(struct vbc_dev *vbc);
int vbc_read_limits(struct vbc_dev *vbc, struct queue_limits *lim);
void vbc_read_geometry(struct vbc_dev *vbc);
void vbc_update_capacity(struct vbc_dev *vbc, bool resize);
void vbc_restore_cache_type(struct vbc_dev *vbc);

/* vbc_main.c */
void vbc_free(struct vbc_dev *vbc);
bool vbc_is_gone(struct vbc_dev *vbc);
void vbc_reset_device(struct vbc_dev *vbc);

/* vbc_crypto.c, vbc_key.c, vbc_cmd.c, vbc_nokey.c and vbc_stats.c */
#ifdef CONFIG_BLK_INLINE_ENCRYPTION

extern const struct attribute_group vbc_crypto_attr_group;

bool vbc_has_ctrl_vq(struct virtio_device *vdev);
bool vbc_may_have_crypto(struct virtio_device *vdev);
int vbc_crypto_alloc(struct vbc_dev *vbc);
void vbc_crypto_free(struct vbc_dev *vbc);
void vbc_crypto_set_ctrl_vq(struct vbc_dev *vbc, struct virtqueue *vq);
void vbc_crypto_set_in_band_vq(struct vbc_dev *vbc);
void vbc_crypto_vq_done(struct virtqueue *vq);
bool vbc_crypto_cmd_done(struct vbc_dev *vbc, const void *token);
unsigned int vbc_crypto_reserved_descs(struct vbc_dev *vbc);
void vbc_crypto_init(struct vbc_dev *vbc);
void vbc_crypto_adjust_limits(struct vbc_dev *vbc, struct queue_limits *lim);
void vbc_crypto_register(struct vbc_dev *vbc);
void vbc_crypto_suspend(struct vbc_dev *vbc);
void vbc_crypto_wipe(struct vbc_dev *vbc);
void vbc_crypto_resume(struct vbc_dev *vbc);
void vbc_crypto_begin_removal(struct vbc_dev *vbc);
void vbc_crypto_detach_bufs(struct vbc_dev *vbc);
bool vbc_crypto_is_broken(struct vbc_dev *vbc);
bool vbc_crypto_keys_in_rqs(struct vbc_dev *vbc);
blk_status_t vbc_crypto_prep_rq(struct vbc_dev *vbc, struct request *rq);
void vbc_crypto_finish_rq(struct request *rq);
void vbc_crypto_unprep_rq(struct request *rq);
bool vbc_crypto_retry_rq(struct vbc_dev *vbc, struct request *rq);
int vbc_crypto_module_init(void);
void vbc_crypto_module_exit(void);

static inline bool vbc_rq_is_encrypted(struct request *rq)
{
	return rq->crypt_ctx;
}

#else /* CONFIG_BLK_INLINE_ENCRYPTION */

static inline bool vbc_has_ctrl_vq(struct virtio_device *vdev)
{
	return false;
}

static inline bool vbc_may_have_crypto(struct virtio_device *vdev)
{
	return false;
}

static inline int vbc_crypto_alloc(struct vbc_dev *vbc)
{
	return 0;
}

static inline void vbc_crypto_free(struct vbc_dev *vbc) { }

static inline void vbc_crypto_set_ctrl_vq(struct vbc_dev *vbc,
					  struct virtqueue *vq) { }

static inline void vbc_crypto_set_in_band_vq(struct vbc_dev *vbc) { }

static inline void vbc_crypto_vq_done(struct virtqueue *vq) { }

static inline bool vbc_crypto_cmd_done(struct vbc_dev *vbc, const void *token)
{
	return false;
}

static inline unsigned int vbc_crypto_reserved_descs(struct vbc_dev *vbc)
{
	return 0;
}

static inline void vbc_crypto_init(struct vbc_dev *vbc) { }

static inline void vbc_crypto_adjust_limits(struct vbc_dev *vbc,
					    struct queue_limits *lim) { }

static inline void vbc_crypto_register(struct vbc_dev *vbc) { }

static inline void vbc_crypto_suspend(struct vbc_dev *vbc) { }

static inline void vbc_crypto_wipe(struct vbc_dev *vbc) { }

static inline void vbc_crypto_resume(struct vbc_dev *vbc) { }

static inline void vbc_crypto_begin_removal(struct vbc_dev *vbc) { }

static inline void vbc_crypto_detach_bufs(struct vbc_dev *vbc) { }

static inline bool vbc_crypto_is_broken(struct vbc_dev *vbc)
{
	return false;
}

static inline bool vbc_crypto_keys_in_rqs(struct vbc_dev *vbc)
{
	return false;
}

static inline blk_status_t vbc_crypto_prep_rq(struct vbc_dev *vbc,
					      struct request *rq)
{
	return BLK_STS_NOTSUPP;
}

static inline void vbc_crypto_finish_rq(struct request *rq) { }

static inline void vbc_crypto_unprep_rq(struct request *rq) { }

static inline bool vbc_crypto_retry_rq(struct vbc_dev *vbc,
				       struct request *rq)
{
	return false;
}

static inline int vbc_crypto_module_init(void)
{
	return 0;
}

static inline void vbc_crypto_module_exit(void) { }

static inline bool vbc_rq_is_encrypted(struct request *rq)
{
	return false;
}

#endif /* CONFIG_BLK_INLINE_ENCRYPTION */

#endif /* VIRTIO_BLK_CRYPTO_H */
