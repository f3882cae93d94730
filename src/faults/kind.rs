// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What goes wrong.

use std::time::Duration;

use super::condition::{ANY, Op, Ops, TRANSFERS};

/// What a fault does to a request that it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// It fails with IOERR, and nothing is done. A program command empties the slot, as any that fails.
    IoError,
    /// It is done, and completed so much later.
    Delay(Duration),
    /// It is done, and completed with others of its queue, the last one first.
    Reorder {
        /// How many are completed together, unless no more come for a while.
        window: usize,
    },
    /// Only the front of the data is transferred.
    Short(Short),
    /// It is not begun until the fault is cleared. When the queue is stopped it fails with IOERR.
    Stuck,
    /// Its keyslot is emptied before.
    LoseKey,
    /// All keyslots are emptied before.
    LoseAllKeys,
    /// All data units have the number of the first.
    DunNotIncremented,
    /// Only the low 32 bits of the numbers count.
    Dun32Bit,
    /// The tweak is the number as 16 bytes, the most significant first.
    DunByteOrder,
    /// The engine works with data units of this size, in binary logarithm, and numbers those.
    DataUnit(u8),
    /// The key for the data is used for the tweak, and the other way round.
    KeyHalvesSwapped,
    /// The key that the slot had before this one is used.
    PreviousKey,
    /// Nothing is encrypted or decrypted.
    Plaintext,
    /// A bit of the ciphertext is flipped in data units whose numbers are multiples of something.
    BitFlip {
        /// The number.
        every: u64,
        /// Which bit of the data unit: bit 0 is the least significant of the first byte.
        bit: u32,
    },
    /// A bit of the digest is flipped of data units whose numbers are multiples of this.
    WrongDigest {
        /// The number.
        every: u64,
    },
}

/// How a short transfer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Bytes that are transferred, rounded down to whole logical blocks and data units; `None`: half.
    pub bytes: Option<u64>,
    /// Whether the status says OK.
    pub claims_success: bool,
}

impl FaultKind {
    /// The requests that it can strike.
    pub(super) fn ops(self) -> Ops {
        match self {
            Self::IoError | Self::Delay(_) | Self::Reorder { .. } | Self::Stuck | Self::LoseAllKeys => ANY,
            _ => TRANSFERS,
        }
    }

    /// Whether it strikes only requests with a keyslot.
    pub(super) fn encrypted_only(self) -> bool {
        self == Self::LoseKey || self.is_broken_engine()
    }

    /// Whether it strikes only requests with digests.
    pub(super) fn digested_only(self) -> bool {
        matches!(self, Self::WrongDigest { .. })
    }

    /// Whether it is the engine that is broken.
    pub fn is_broken_engine(self) -> bool {
        match self {
            Self::IoError
            | Self::Delay(_)
            | Self::Reorder { .. }
            | Self::Short(_)
            | Self::Stuck
            | Self::LoseKey
            | Self::LoseAllKeys
            | Self::WrongDigest { .. } => false,
            Self::DunNotIncremented
            | Self::Dun32Bit
            | Self::DunByteOrder
            | Self::DataUnit(_)
            | Self::KeyHalvesSwapped
            | Self::PreviousKey
            | Self::Plaintext
            | Self::BitFlip { .. } => true,
        }
    }

    /// Whether bytes of keys must be kept for it.
    pub(super) fn needs_kept_keys(self) -> bool {
        matches!(self, Self::KeyHalvesSwapped | Self::PreviousKey)
    }

    /// The operations that `op=` may name for it, as text.
    pub(super) fn ops_text(self) -> String {
        let names: Vec<_> = Op::ALL.iter().filter(|op| self.ops().has(**op)).map(|op| op.name()).collect();
        names.join(", ")
    }
}
