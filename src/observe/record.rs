// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What statistics and traces record of one request.

use super::clock::Stopwatch;
use crate::protocol::{Status, request_type};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident = $name:literal, $number:path;)*) => {
        /// A type of request or command, for counting.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind { $($(#[doc = $doc])* $kind,)* /** A type that does not exist, or no header. */ Other }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)* Self::Other];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The kind for a header's type; `None`: there was no header.
            pub fn of(request_type: Option<u32>) -> Self {
                match request_type {
                    $(Some($number) => Self::$kind,)*
                    _ => Self::Other,
                }
            }

            /// The name in statistics and traces.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* Self::Other => "other" }
            }
        }
    };
}

kinds! {
    /// IN.
    In = "in", request_type::IN;
    /// OUT.
    Out = "out", request_type::OUT;
    /// FLUSH.
    Flush = "flush", request_type::FLUSH;
    /// GET_ID.
    GetId = "get_id", request_type::GET_ID;
    /// DISCARD.
    Discard = "discard", request_type::DISCARD;
    /// WRITE_ZEROES.
    WriteZeroes = "write_zeroes", request_type::WRITE_ZEROES;
    /// SECURE_ERASE.
    SecureErase = "secure_erase", request_type::SECURE_ERASE;
    /// CRYPTO_IN.
    CryptoIn = "crypto_in", request_type::CRYPTO_IN;
    /// CRYPTO_OUT.
    CryptoOut = "crypto_out", request_type::CRYPTO_OUT;
    /// CRYPTO_IN_EXT.
    CryptoInExt = "crypto_in_ext", request_type::CRYPTO_IN_EXT;
    /// CRYPTO_OUT_EXT.
    CryptoOutExt = "crypto_out_ext", request_type::CRYPTO_OUT_EXT;
    /// GET_CRYPTO_MODES.
    GetCryptoModes = "get_crypto_modes", request_type::GET_CRYPTO_MODES;
    /// KEYSLOT_PROGRAM.
    Program = "keyslot_program", request_type::KEYSLOT_PROGRAM;
    /// KEYSLOT_EVICT.
    Evict = "keyslot_evict", request_type::KEYSLOT_EVICT;
    /// DERIVE_SW_SECRET.
    DeriveSwSecret = "derive_sw_secret", request_type::DERIVE_SW_SECRET;
    /// GENERATE_KEY.
    GenerateKey = "generate_key", request_type::GENERATE_KEY;
    /// IMPORT_KEY.
    ImportKey = "import_key", request_type::IMPORT_KEY;
    /// PREPARE_KEY.
    PrepareKey = "prepare_key", request_type::PREPARE_KEY;
    /// GET_CRYPTO_CHARACTERISTICS.
    GetCharacteristics = "get_crypto_characteristics", request_type::GET_CRYPTO_CHARACTERISTICS;
    /// GET_CRYPTO_EXTENSIONS.
    GetExtensions = "get_crypto_extensions", request_type::GET_CRYPTO_EXTENSIONS;
}

impl Kind {
    /// Whether it is a command of the control virtqueue, or in-band.
    pub fn is_control(self) -> bool {
        self as usize >= Self::GetCryptoModes as usize && self != Self::Other
    }
}

/// What an encrypted request used. No key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CryptoUse {
    /// Keyslot; `None`: the request brought its key along.
    pub slot: Option<u32>,
    /// Which programming of the slot, see [`KeyHandle::generation`](crate::keyslot::KeyHandle::generation); without a slot a
    /// fingerprint of the key, when a trace is recorded.
    pub generation: u64,
    /// Data unit number of the first data unit, least significant word first.
    pub dun: [u64; 4],
    /// Data units.
    pub units: u64,
}

/// A request, from the time it was taken from its queue. No data, no keys.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    /// Queue.
    pub queue: u16,
    /// Head of the descriptor chain.
    pub head: u16,
    /// The header's type, when there was a header.
    pub request_type: Option<u32>,
    /// First sector; 0 where there is none.
    pub sector: u64,
    /// Bytes of data or of the ranges.
    pub bytes: u64,
    /// The keyslot, of an encrypted request that found a key.
    pub crypto: Option<CryptoUse>,
    /// The status that the driver gets.
    pub status: Status,
    /// It was refused for its form: no key was looked up, and the disk was not used.
    pub refused: bool,
    /// Where the time went.
    pub watch: Stopwatch,
}

impl Record {
    /// A chain that was just taken, with the stopwatch of [`WorkerStats::stopwatch`](super::WorkerStats::stopwatch).
    pub fn new(queue: usize, head: u16, watch: Stopwatch) -> Self {
        Self {
            queue: u16::try_from(queue).unwrap_or(u16::MAX),
            head,
            request_type: None,
            sector: 0,
            bytes: 0,
            crypto: None,
            status: Status::IoErr,
            refused: false,
            watch,
        }
    }

    /// Its type, for counting.
    pub fn kind(&self) -> Kind {
        Kind::of(self.request_type)
    }
}
