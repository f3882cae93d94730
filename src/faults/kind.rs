// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What goes wrong.

use std::time::Duration;

use super::condition::{ANY, DISK, Op, Ops, TRANSFERS, UIC};

/// What a fault does to a request that it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// It fails with IOERR and has no other effect. A program command empties the slot, as any command that fails.
    IoError,
    /// It completes this much later.
    Delay(Duration),
    /// It completes together with others of its queue, the last one first.
    Reorder {
        /// How many complete together, unless no more come for a while.
        window: usize,
    },
    /// Only the front of the data is transferred.
    Short(Short),
    /// It does not start until the fault is cleared. If the queue is stopped first, it fails with IOERR.
    Stuck,
    /// Its keyslot is emptied first.
    LoseKey,
    /// All keyslots are emptied first.
    LoseAllKeys,
    /// All data units have the number of the first.
    DunNotIncremented,
    /// Numbers are cut to their low 32 bits.
    Dun32Bit,
    /// The tweak is the number as 16 bytes, big-endian.
    DunByteOrder,
    /// The engine uses data units of this size (binary logarithm), and numbers those.
    DataUnit(u8),
    /// The keys for data and tweak are swapped.
    KeyHalvesSwapped,
    /// The previous key of the slot is used.
    PreviousKey,
    /// Nothing is encrypted or decrypted.
    Plaintext,
    /// A bit of the ciphertext is flipped in data units whose numbers are multiples of `every`.
    BitFlip {
        /// The number.
        every: u64,
        /// Which bit of the data unit: bit 0 is the least significant of the first byte.
        bit: u32,
    },
    /// The UFS host controller fails.
    Controller(ControllerFault),
    /// A command for the link of a UFS host controller fails.
    UicFailure,
    /// A bit of the digest is flipped of data units whose numbers are multiples of this.
    WrongDigest {
        /// The number.
        every: u64,
    },
}

/// How a UFS host controller fails at a request, which has no other effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControllerFault {
    /// Overall command status: the UIC layers could not communicate.
    CommunicationFailure,
    /// Overall command status: aborted.
    Aborted,
    /// Overall command status: fatal error of the controller.
    FatalError,
    /// Overall command status: fatal error of the device.
    DeviceFatalError,
    /// Overall command status: invalid crypto configuration.
    InvalidCryptoConfiguration,
    /// Overall command status: general crypto error.
    GeneralCryptoError,
    /// The link is lost. This and those below stop the controller: it answers no request until it is reset.
    LinkLost,
    /// Errors of the link are reported.
    LinkError,
    /// The crypto engine reports a fatal error.
    CryptoFatalError,
}

impl ControllerFault {
    /// Those that are an overall command status, as `ocs=` names them.
    pub(super) const STATUSES: [(&str, Self); 6] = [
        ("communication-failure", Self::CommunicationFailure),
        ("aborted", Self::Aborted),
        ("fatal-error", Self::FatalError),
        ("device-fatal-error", Self::DeviceFatalError),
        ("invalid-crypto-config", Self::InvalidCryptoConfiguration),
        ("general-crypto-error", Self::GeneralCryptoError),
    ];
}

/// How a short transfer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Bytes to transfer, rounded down to whole logical blocks and data units; `None`: half.
    pub bytes: Option<u64>,
    /// Whether the status says OK.
    pub claims_success: bool,
}

impl FaultKind {
    /// The requests that it can strike.
    pub(super) fn ops(self) -> Ops {
        match self {
            Self::IoError | Self::Delay(_) | Self::Reorder { .. } | Self::Stuck | Self::LoseAllKeys => ANY,
            Self::Controller(_) => DISK,
            Self::UicFailure => UIC,
            _ => TRANSFERS,
        }
    }

    /// Whether it strikes only requests with a keyslot.
    pub(super) fn encrypted_only(self) -> bool {
        matches!(self, Self::LoseKey | Self::Controller(ControllerFault::CryptoFatalError)) || self.is_broken_engine()
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
            | Self::Controller(_)
            | Self::UicFailure
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

    /// Whether only a UFS host controller can have it.
    pub(super) fn needs_controller(self) -> bool {
        matches!(self, Self::Controller(_) | Self::UicFailure)
    }

    /// Whether bytes of keys must be kept for it.
    pub(super) fn needs_kept_keys(self) -> bool {
        matches!(self, Self::KeyHalvesSwapped | Self::PreviousKey)
    }

    /// The operations that `op=` may name, as text.
    pub(super) fn ops_text(self) -> String {
        let names: Vec<_> = Op::ALL.iter().filter(|op| self.ops().has(**op)).map(|op| op.name()).collect();
        names.join(", ")
    }
}
