/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The wire protocol of virtio-blk with inline encryption: every number and
 * layout that <uapi/linux/virtio_blk.h> does not have, and nothing else.
 *
 * The numbers follow a draft that is not merged, so they may move.  They carry
 * a prefix of their own because a kernel that has merged the draft may define
 * the draft's names, perhaps with other values.
 *
 * Everything is little-endian: legacy devices do not speak this protocol.
 */
#ifndef VIRTIO_BLK_CRYPTO_PROTO_H
#define VIRTIO_BLK_CRYPTO_PROTO_H

#include <linux/bits.h>
#include <linux/build_bug.h>
#include <linux/stddef.h>
#include <linux/types.h>
#include <uapi/linux/virtio_blk.h>

/* Feature bits.  Either both are negotiated or neither means anything. */
#define VBC_F_CTRL_VQ			22
#define VBC_F_INLINE_ENCRYPTION		23

/* Request types; bit 0 says "driver to device", as it does for OUT. */
#define VBC_T_CRYPTO_OUT		27
#define VBC_T_CRYPTO_IN			28

/* Commands, on the control virtqueue; in-band, on any request queue */
#define VBC_T_GET_CRYPTO_MODES		29
#define VBC_T_KEYSLOT_PROGRAM		30
#define VBC_T_KEYSLOT_EVICT		31
#define VBC_T_DERIVE_SW_SECRET		32
#define VBC_T_GENERATE_KEY		33
#define VBC_T_IMPORT_KEY		34
#define VBC_T_PREPARE_KEY		35

/* In-band access only: what config space has at VBC_CONFIG_OFFSET */
#define VBC_T_GET_CRYPTO_CHARACTERISTICS 0x1ce00

/*
 * Extensions (ours).  A device without extensions answers UNSUPP to the command
 * and to requests that ask for one.
 */
#define VBC_T_GET_CRYPTO_EXTENSIONS	0x1ce04
#define VBC_T_CRYPTO_IN_EXT		0x1ce10
#define VBC_T_CRYPTO_OUT_EXT		0x1ce11

/* Flags in the reply of GET_CRYPTO_EXTENSIONS */
#define VBC_EXT_KEYS_IN_REQUESTS	BIT(0)

/*
 * Digests of the ciphertext, in such a message: one for each data unit.  In the
 * reply of GET_CRYPTO_EXTENSIONS, bit i is that of algorithm i.
 */
#define VBC_DIGEST_NONE			0
#define VBC_DIGEST_CRC32C		1
#define VBC_DIGEST_XXHASH64		2
#define VBC_DIGEST_SHA256		3
#define VBC_DIGEST_BLAKE2B_256		4

/* Flags in the message of a CRYPTO_IN_EXT or CRYPTO_OUT_EXT */
#define VBC_MSG_KEY_FOLLOWS		BIT(0)

/* The slot in such a message and in the key descriptor that follows it */
#define VBC_SLOT_NONE			0xffffffff

/*
 * Status: the keyslot that a CRYPTO_IN or CRYPTO_OUT names is empty, because
 * it was never programmed or because the device lost its keys.
 */
#define VBC_S_NOKEY			0xe0

/* Crypto modes */
#define VBC_MODE_INVALID		0
#define VBC_MODE_AES_256_XTS		1
#define VBC_NUM_MODES			2

/* Key types in a key descriptor */
#define VBC_KEY_TYPE_RAW		1
#define VBC_KEY_TYPE_HW_WRAPPED		2

/* Key types in config space */
#define VBC_CONFIG_KEY_RAW		BIT(0)
#define VBC_CONFIG_KEY_HW_WRAPPED	BIT(1)

#define VBC_KEY_BYTES			128
#define VBC_SW_SECRET_BYTES		32
#define VBC_IMPORT_BYTES		32	/* of a raw key to be wrapped */
#define VBC_MAX_DUN_BYTES		32

/* Config space; the fields before are those of struct virtio_blk_config. */
#define VBC_CONFIG_OFFSET		96

struct vbc_characteristics {
	__le16 max_slots;
	__u8 max_dun_bytes;
	__u8 key_types;
	__le32 reserved;
} __packed;

struct vbc_config {
	__u8 blk[VBC_CONFIG_OFFSET];
	struct vbc_characteristics crypto;
} __packed;

/* Directly follows the header of a CRYPTO_IN or CRYPTO_OUT, extended or not. */
struct vbc_crypto_msg {
	__le32 slot;
	__u8 digest;		/* this and the flags: 0 unless extended */
	__u8 flags;
	__u8 unused[2];
	__le64 dun[4];
};

/*
 * KEYSLOT_PROGRAM; KEYSLOT_EVICT too, where only the slot counts.  In a request
 * it directly follows the message.
 */
struct vbc_key_desc {
	__le32 slot;
	__u8 bytes[VBC_KEY_BYTES];
	__le32 key_size;
	__le32 crypto_mode;
	__le32 key_type;
	__le32 data_unit_size_bits;
	__le32 dun_bytes;
};

/* Reply of GET_CRYPTO_EXTENSIONS */
struct vbc_crypto_extensions {
	__le32 digests;
	__le32 flags;
	__le64 reserved;
};

/* The commands of hardware-wrapped keys: what goes in and what comes out */
struct vbc_key_blob {
	__le32 key_size;
	__u8 key[VBC_KEY_BYTES];
};

struct vbc_sw_secret {
	__u8 secret[VBC_SW_SECRET_BYTES];
};

/*
 * Reply of GET_CRYPTO_MODES: bit i of mode[m] means that mode m works with data
 * units of 2^i bytes.  The device fills as many modes as the reply has room
 * for.
 */
struct vbc_crypto_modes {
	__le32 mode[VBC_NUM_MODES];
};

static_assert(sizeof(struct virtio_blk_outhdr) == 16);
static_assert(sizeof(struct vbc_characteristics) == 8);
static_assert(offsetof(struct vbc_config, crypto) == VBC_CONFIG_OFFSET);
static_assert(sizeof(struct vbc_config) == 104);
static_assert(sizeof(struct vbc_crypto_msg) == 40);
static_assert(sizeof(struct vbc_key_desc) == 152);
static_assert(sizeof(struct vbc_crypto_extensions) == 16);
static_assert(sizeof(struct vbc_key_blob) == 132);
static_assert(sizeof(struct vbc_sw_secret) == 32);
static_assert(sizeof(struct vbc_crypto_modes) == 8);

#endif /* VIRTIO_BLK_CRYPTO_PROTO_H */
