// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every number and layout of the wire protocol, and nothing else.
//!
//! Sources: the virtio 1.4 specification, section 5.2 (block device); the Linux patch series "virtio_blk: add
//! control virtqueue" and "virtio_blk: add inline encryption support" (2026), which is not merged, so its numbers may
//! move: a renumbering touches this file only. What the series leaves open is marked *(ours)*.
//!
//! All integers are little-endian. The types here can be laid over any bytes: they validate nothing.

#![forbid(unsafe_code)]

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::Zeroize;

// Every sector number on the wire is one of such sectors, whatever the logical block size.
pub use crate::disk::{SECTOR_SHIFT, SECTOR_SIZE};

/// Feature bits of the block device (virtio 1.4, 5.2.3) and of the transport (section 6).
pub mod feature {
    /// `VIRTIO_BLK_F_SIZE_MAX`: `size_max` bounds the bytes of one segment.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// `VIRTIO_BLK_F_SEG_MAX`: `seg_max` bounds the segments of one request.
    pub const SEG_MAX: u64 = 1 << 2;
    /// `VIRTIO_BLK_F_RO`: the disk is read-only.
    pub const RO: u64 = 1 << 5;
    /// `VIRTIO_BLK_F_BLK_SIZE`: `blk_size` is the logical block size.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// `VIRTIO_BLK_F_FLUSH`: the FLUSH request exists.
    pub const FLUSH: u64 = 1 << 9;
    /// `VIRTIO_BLK_F_TOPOLOGY`: physical block and optimal I/O sizes are known.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// `VIRTIO_BLK_F_CONFIG_WCE`: the driver may switch write-back and write-through.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// `VIRTIO_BLK_F_MQ`: `num_queues` request queues.
    pub const MQ: u64 = 1 << 12;
    /// `VIRTIO_BLK_F_DISCARD`: the DISCARD request exists.
    pub const DISCARD: u64 = 1 << 13;
    /// `VIRTIO_BLK_F_WRITE_ZEROES`: the WRITE_ZEROES request exists.
    pub const WRITE_ZEROES: u64 = 1 << 14;
    /// `VIRTIO_BLK_F_SECURE_ERASE`: the SECURE_ERASE request exists.
    pub const SECURE_ERASE: u64 = 1 << 16;
    /// `VIRTIO_BLK_F_CTRL_VQ` (draft): one control virtqueue follows the request queues.
    pub const CTRL_VQ: u64 = 1 << 22;
    /// `VIRTIO_BLK_F_INLINE_ENCRYPTION` (draft): keyslots and encrypted requests; only together with [`CTRL_VQ`].
    pub const INLINE_ENCRYPTION: u64 = 1 << 23;
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `VIRTIO_F_EVENT_IDX`.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// `VIRTIO_F_VERSION_1`: no legacy interface.
    pub const VERSION_1: u64 = 1 << 32;
    /// `VIRTIO_F_ACCESS_PLATFORM`: addresses come from the platform's DMA API. Without an IOMMU they are guest addresses all the same.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
}

/// Request and command types, the first field of every header (virtio 1.4, 5.2.6; 27 and up: draft).
pub mod request_type {
    /// `VIRTIO_BLK_T_IN`: read.
    pub const IN: u32 = 0;
    /// `VIRTIO_BLK_T_OUT`: write.
    pub const OUT: u32 = 1;
    /// `VIRTIO_BLK_T_FLUSH`.
    pub const FLUSH: u32 = 4;
    /// `VIRTIO_BLK_T_GET_ID`: the serial number.
    pub const GET_ID: u32 = 8;
    /// `VIRTIO_BLK_T_DISCARD`.
    pub const DISCARD: u32 = 11;
    /// `VIRTIO_BLK_T_WRITE_ZEROES`.
    pub const WRITE_ZEROES: u32 = 13;
    /// `VIRTIO_BLK_T_SECURE_ERASE`.
    pub const SECURE_ERASE: u32 = 14;
    /// `CRYPTO_OUT`: write, encrypted by the device.
    pub const CRYPTO_OUT: u32 = 27;
    /// `CRYPTO_IN`: read, decrypted by the device.
    pub const CRYPTO_IN: u32 = 28;
    /// `GET_CRYPTO_MODES`: which data unit sizes work with which mode.
    pub const GET_CRYPTO_MODES: u32 = 29;
    /// `CRYPTO_KEYSLOT_PROGRAM`.
    pub const KEYSLOT_PROGRAM: u32 = 30;
    /// `CRYPTO_KEYSLOT_EVICT`.
    pub const KEYSLOT_EVICT: u32 = 31;
    /// `CRYPTO_DERIVE_SW_SECRET` (hardware-wrapped keys).
    pub const DERIVE_SW_SECRET: u32 = 32;
    /// `CRYPTO_GENERATE_KEY` (hardware-wrapped keys).
    pub const GENERATE_KEY: u32 = 33;
    /// `CRYPTO_IMPORT_KEY` (hardware-wrapped keys).
    pub const IMPORT_KEY: u32 = 34;
    /// `CRYPTO_PREPARE_KEY` (hardware-wrapped keys).
    pub const PREPARE_KEY: u32 = 35;
    /// `GET_CRYPTO_CHARACTERISTICS` *(ours)*: what the configuration space has at offset 96. In-band access only.
    pub const GET_CRYPTO_CHARACTERISTICS: u32 = 0x1ce00;
    /// `GET_CRYPTO_EXTENSIONS` *(ours)*: which of the next two types the device supports, with which extensions.
    pub const GET_CRYPTO_EXTENSIONS: u32 = 0x1ce04;
    /// `CRYPTO_IN_EXT` *(ours)*: read, decrypted by the device, with the extensions that the request names.
    pub const CRYPTO_IN_EXT: u32 = 0x1ce10;
    /// `CRYPTO_OUT_EXT` *(ours)*: write, encrypted by the device, with the extensions that the request names.
    pub const CRYPTO_OUT_EXT: u32 = 0x1ce11;
}

/// The status byte that ends every request (virtio 1.4, 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// `VIRTIO_BLK_S_OK`.
    Ok = 0,
    /// `VIRTIO_BLK_S_IOERR`.
    IoErr = 1,
    /// `VIRTIO_BLK_S_UNSUPP`.
    Unsupp = 2,
    /// *(ours)* the keyslot is empty: never programmed, evicted, or lost in a reset or restart of the device.
    NoKey = 0xe0,
}

/// Crypto modes of the key descriptor and of GET_CRYPTO_MODES.
pub mod crypto_mode {
    /// No mode; entry 0 of the modes table is always 0.
    pub const INVALID: u32 = 0;
    /// AES-256-XTS (IEEE 1619), 64-byte key.
    pub const AES_256_XTS: u32 = 1;
    /// Entries of the modes table of this version: the highest mode, plus entry 0.
    pub const TABLE_LEN: usize = 2;
}

/// Key types of the key descriptor.
pub mod key_type {
    /// The bytes are the key.
    pub const RAW: u32 = 1;
    /// The bytes are an ephemerally-wrapped blob.
    pub const HW_WRAPPED: u32 = 2;
    /// Bit of [`RAW`](self::RAW) in the configuration space.
    pub const CONFIG_RAW: u8 = 1 << 0;
    /// Bit of [`HW_WRAPPED`](self::HW_WRAPPED) in the configuration space.
    pub const CONFIG_HW_WRAPPED: u8 = 1 << 1;
}

/// The bytes every GET_ID reply has; shorter serial numbers are padded with zero bytes.
pub const ID_BYTES: usize = crate::engine::SERIAL_BYTES;
/// Room for key bytes in a key descriptor and a key blob.
pub const MAX_KEY_BYTES: usize = 128;
/// The most bytes a DUN can have.
pub const MAX_DUN_BYTES: u8 = 32;
/// Bytes of an AES-256-XTS key.
pub const AES_256_XTS_KEY_BYTES: usize = 64;

/// `struct virtio_blk_outhdr`: starts every request and command.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RequestHeader {
    /// One of [`request_type`].
    pub request_type: U32,
    /// I/O priority; the device ignores it.
    pub ioprio: U32,
    /// First sector of IN, OUT and their encrypted forms; 0 otherwise.
    pub sector: U64,
}

/// Follows the header of CRYPTO_IN and CRYPTO_OUT (draft).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CryptoMessage {
    /// Keyslot that holds the key.
    pub slot: U32,
    /// Extensions of the `_EXT` types; ignored in other types *(ours)*.
    pub extensions: Extensions,
    /// Data unit number of the first data unit, least significant word first.
    pub dun: [U64; 4],
}

/// What CRYPTO_IN_EXT and CRYPTO_OUT_EXT ask for *(ours)*.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Extensions {
    /// One of [`digest`]; 0: none.
    pub digest: u8,
    /// Bits of [`extension_flag`].
    pub flags: u8,
    /// 0.
    pub reserved: [u8; 2],
}

/// Bits of [`Extensions::flags`] and [`CryptoExtensions::flags`].
pub mod extension_flag {
    /// A [`KeyDescriptor`](super::KeyDescriptor) follows the crypto message; there are no keyslots.
    pub const KEY: u8 = 1 << 0;
}

/// Numbers of digest algorithms *(ours)*, in [`Extensions::digest`] and as bits of [`CryptoExtensions::digests`]. 0: none.
pub mod digest {
    /// CRC-32C, 4 bytes.
    pub const CRC32C: u8 = 1;
    /// XXH64, 8 bytes.
    pub const XXHASH64: u8 = 2;
    /// SHA-256, 32 bytes.
    pub const SHA256: u8 = 3;
    /// BLAKE2b with 32 bytes.
    pub const BLAKE2B_256: u8 = 4;
}

/// The slot that a request names which brings its key along.
pub const NO_SLOT: u32 = u32::MAX;

/// Reply of GET_CRYPTO_EXTENSIONS *(ours)*.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CryptoExtensions {
    /// Bit i: digests of algorithm i.
    pub digests: U32,
    /// Bits of [`extension_flag`].
    pub flags: U32,
    /// 0.
    pub reserved: U64,
}

/// Payload of KEYSLOT_PROGRAM and KEYSLOT_EVICT (draft). Wiped when dropped; `Debug` shows no key.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct KeyDescriptor {
    /// Keyslot to program or to empty. The only field that counts for KEYSLOT_EVICT.
    pub slot: U32,
    /// The key, `key_size` bytes.
    pub bytes: [u8; MAX_KEY_BYTES],
    /// What the key is for.
    pub usage: KeyUse,
}

/// What a key is for: the end of a [`KeyDescriptor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct KeyUse {
    /// Key bytes in use.
    pub key_size: U32,
    /// One of [`crypto_mode`].
    pub crypto_mode: U32,
    /// One of [`key_type`].
    pub key_type: U32,
    /// Binary logarithm of the data unit size in bytes.
    pub data_unit_size_bits: U32,
    /// Bytes a DUN of this key may have.
    pub dun_bytes: U32,
}

impl Drop for KeyDescriptor {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl std::fmt::Debug for KeyDescriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyDescriptor")
            .field("slot", &self.slot.get())
            .field("bytes", &format_args!("[redacted]"))
            .field("usage", &self.usage)
            .finish()
    }
}

/// Payload and reply of the commands for hardware-wrapped keys (draft). Wiped when dropped; `Debug` shows no key.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct KeyBlob {
    /// Bytes in use.
    pub key_size: U32,
    /// A blob, or a raw key to import.
    pub key: [u8; MAX_KEY_BYTES],
}

impl KeyBlob {
    /// The bytes in use, or `None` when that is more than there are.
    pub fn bytes(&self) -> Option<&[u8]> {
        usize::try_from(self.key_size.get()).ok().and_then(|size| self.key.get(..size))
    }
}

impl Drop for KeyBlob {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl std::fmt::Debug for KeyBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyBlob").field("key_size", &self.key_size.get()).finish_non_exhaustive()
    }
}

/// One range of DISCARD, WRITE_ZEROES and SECURE_ERASE (virtio 1.4, 5.2.6).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RangeSegment {
    /// First sector.
    pub sector: U64,
    /// Sectors.
    pub num_sectors: U32,
    /// [`RANGE_FLAG_UNMAP`] or 0.
    pub flags: U32,
}

/// `VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP`: WRITE_ZEROES may deallocate.
pub const RANGE_FLAG_UNMAP: u32 = 1;

/// `struct virtio_blk_config` up to and including the zoned fields, then the inline-encryption fields (draft, at
/// offset 96). 104 bytes.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs)] // the names and meanings are the specification's
pub struct ConfigSpace {
    pub capacity: U64,
    pub size_max: U32,
    pub seg_max: U32,
    pub cylinders: U16,
    pub heads: u8,
    pub sectors: u8,
    pub blk_size: U32,
    pub physical_block_exp: u8,
    pub alignment_offset: u8,
    pub min_io_size: U16,
    pub opt_io_size: U32,
    pub writeback: u8,
    pub unused0: u8,
    pub num_queues: U16,
    pub max_discard_sectors: U32,
    pub max_discard_seg: U32,
    pub discard_sector_alignment: U32,
    pub max_write_zeroes_sectors: U32,
    pub max_write_zeroes_seg: U32,
    pub write_zeroes_may_unmap: u8,
    pub unused1: [u8; 3],
    pub max_secure_erase_sectors: U32,
    pub max_secure_erase_seg: U32,
    pub secure_erase_sector_alignment: U32,
    pub zoned: [u8; 24],
    pub crypto: CryptoCharacteristics,
}

/// The inline-encryption part of [`ConfigSpace`] (draft).
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CryptoCharacteristics {
    /// Number of keyslots, at least 1. *(ours)* 0: keys come with the requests.
    pub max_slots: U16,
    /// The most bytes a DUN may have, 1 to [`MAX_DUN_BYTES`].
    pub max_dun_bytes: u8,
    /// Bit mask of supported key types.
    pub key_types: u8,
    /// 0.
    pub reserved: U32,
}

/// Offset of [`ConfigSpace::writeback`], the one field a driver may write.
pub const CONFIG_WRITEBACK_OFFSET: u32 = std::mem::offset_of!(ConfigSpace, writeback) as u32;

#[cfg(test)]
mod tests;
