/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files that know keys share.  Commands to the device:
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

#include <linux/atomic.h>
#include <linux/blk-crypto-profile.h>
#include <linux/cache.h>
#include <linux/completion.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "virtio_blk_crypto.h"
#include "virtio_blk_crypto_proto.h"

/*
 * One command at a time is in flight, so one buffer is enough.  It is allocated
 * early, so that programming a key for a write-back needs no memory.
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
		struct vbc_crypto_extensions extensions;
		struct vbc_crypto_modes modes;
		struct vbc_key_blob blob;
		struct vbc_sw_secret secret;
	} reply ____cacheline_aligned;
	u8 status;
};

static_assert(offsetof(struct vbc_ctrl_cmd, payload) ==
	      sizeof(struct virtio_blk_outhdr));

enum vbc_ctrl_state {
	/*
	 * There is no device: not yet, suspended, or removed.  Its keyslots are
	 * empty, so an eviction has nothing to do.  The profile remembers keys
	 * that are programmed meanwhile until vbc_crypto_resume().  Commands
	 * that have a reply fail.
	 */
	VBC_CTRL_DOWN,
	VBC_CTRL_UP,
	/* A command was given up: the device owns its buffer until a reset. */
	VBC_CTRL_DEAD,
};

struct vbc_crypto {
	struct blk_crypto_profile profile;
	bool profile_valid;
	struct virtio_device *vdev;

	/* Serialises commands, and guards state, no_dma and *cmd. */
	struct mutex ctrl_lock;
	enum vbc_ctrl_state state;
	struct vbc_ctrl_cmd *cmd;
	/* A command waited for the DMA layer in vain: the next ones do not. */
	bool no_dma;
	struct completion done;
	bool removing;

	/* Where commands go: the control virtqueue or, in-band, a request queue */
	struct vbc_vq *vq;
	struct vbc_vq ctrl_vq;
	bool in_band;

	/* Requests that ended with NOKEY */
	spinlock_t nokey_lock;		/* guards nokey_list */
	struct list_head nokey_list;
	struct work_struct nokey_work;
	/* Counts how often all keys were programmed again. */
	u32 key_gen;
	/* The task that is doing so; only that task compares it */
	struct task_struct *reprogrammer;
	/*
	 * A bit for each slot whose key the device refused to take back.
	 * Requests that use it fail until the slot gets another key, is
	 * evicted, or the device is reset.
	 */
	unsigned long *refused_slots;

	/* A buffer for digests; NULL if the device gives none */
	mempool_t *digest_pool;

	/* For user space: vbc_stats.c */
	atomic64_t commands;
	atomic64_t refused;
	atomic64_t nokey_retries;
	atomic64_t reprograms;
};

/* vbc_crypto.c */
struct vbc_crypto *vbc_crypto_from_profile(struct blk_crypto_profile *profile);

/* vbc_key.c */
struct vbc_mode {
	u32 mode;			/* on the wire */
	unsigned int key_size;		/* raw keys */
};

extern const struct vbc_mode vbc_modes[BLK_ENCRYPTION_MODE_MAX];

int vbc_keyslot_program(struct blk_crypto_profile *profile,
			const struct blk_crypto_key *key, unsigned int slot);
int vbc_keyslot_evict(struct blk_crypto_profile *profile,
		      const struct blk_crypto_key *key, unsigned int slot);
void vbc_evict_all_keys(struct vbc_crypto *vc);

/* vbc_cmd.c */
int vbc_ctrl_alloc(struct vbc_crypto *vc);
void vbc_ctrl_free(struct vbc_crypto *vc);
void vbc_ctrl_wipe(struct vbc_crypto *vc);
struct vbc_ctrl_cmd *vbc_ctrl_begin(struct vbc_crypto *vc);
int vbc_ctrl_exec(struct vbc_crypto *vc, u32 type, size_t out_len,
		  size_t in_len);
void vbc_ctrl_end(struct vbc_crypto *vc);

/* vbc_nokey.c */
void vbc_nokey_init(struct vbc_crypto *vc);
void vbc_reprogram_all_keys(struct vbc_crypto *vc);

/* vbc_digest.c */
#ifdef VBC_DIGESTS

static inline bool vbc_knows_digests(void)
{
	return true;
}

void vbc_digests_init(struct vbc_crypto *vc, u32 offered);
void vbc_digests_exit(struct vbc_crypto *vc);
void vbc_digests_adjust_limits(struct vbc_crypto *vc, struct queue_limits *lim,
			       unsigned int units);
blk_status_t vbc_digests_prep_rq(struct vbc_dev *vbc, struct request *rq);
void vbc_digests_return(struct request *rq);
void vbc_digests_unprep_rq(struct request *rq);

#else /* VBC_DIGESTS */

static inline bool vbc_knows_digests(void)
{
	return false;
}

static inline void vbc_digests_init(struct vbc_crypto *vc, u32 offered) { }

static inline void vbc_digests_exit(struct vbc_crypto *vc) { }

static inline void vbc_digests_adjust_limits(struct vbc_crypto *vc,
					     struct queue_limits *lim,
					     unsigned int units) { }

static inline blk_status_t vbc_digests_prep_rq(struct vbc_dev *vbc,
					       struct request *rq)
{
	return BLK_STS_OK;
}

static inline void vbc_digests_return(struct request *rq) { }

static inline void vbc_digests_unprep_rq(struct request *rq) { }

#endif /* VBC_DIGESTS */

/* vbc_wrapped.c */
bool vbc_is_wrapped(const struct blk_crypto_key *key);
bool vbc_set_key_types(struct vbc_crypto *vc, u8 offered);
const char *vbc_key_types(const struct vbc_crypto *vc);

#endif /* VBC_CRYPTO_H */
