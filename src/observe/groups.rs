// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The groups of counters. `docs/statistics.md` is made from these comments.

use serde::Serialize;

/// A documented number: its name in JSON and what it means.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Name in its group.
    pub name: &'static str,
    /// What it counts.
    pub doc: &'static str,
}

/// Removes the `r#` of a raw identifier.
const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

macro_rules! counters {
    ($(#[doc = $about:literal])* $group:ident { $($(#[doc = $doc:literal])* $name:ident,)* }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        pub struct $group { $($(#[doc = $doc])* pub $name: u64,)* }

        impl $group {
            /// What the group is.
            pub const ABOUT: &str = concat!($($about),*);
            /// Its numbers, in the order of [`Self::values`].
            pub const FIELDS: &[Field] = &[$(Field { name: plain(stringify!($name)), doc: concat!($($doc),*) },)*];

            /// The numbers, in the order of [`Self::FIELDS`].
            pub fn values(&self) -> impl Iterator<Item = (&'static Field, u64)> {
                Self::FIELDS.iter().zip([$(self.$name),*])
            }
        }
    };
}

counters! {
    /// Well-formed requests by type, whether they then succeeded or not; and requests that failed.
    Requests {
        /// IN.
        r#in,
        /// OUT.
        out,
        /// FLUSH.
        flush,
        /// GET_ID.
        get_id,
        /// DISCARD.
        discard,
        /// WRITE_ZEROES.
        write_zeroes,
        /// SECURE_ERASE.
        secure_erase,
        /// CRYPTO_IN.
        crypto_in,
        /// CRYPTO_OUT.
        crypto_out,
        /// Commands on the control virtqueue.
        control,
        /// Requests refused with IOERR before execution: out of range, not aligned, too short.
        refused,
        /// Requests refused with UNSUPP: the type is unknown or was not negotiated.
        unsupported,
        /// Well-formed requests that failed with IOERR or UNSUPP.
        failed,
    }
}
counters! {
    /// Bytes of successful requests.
    Bytes {
        /// IN.
        r#in,
        /// OUT.
        out,
        /// CRYPTO_IN.
        crypto_in,
        /// CRYPTO_OUT.
        crypto_out,
    }
}
counters! {
    /// Data units of successful requests.
    DataUnits {
        /// CRYPTO_OUT.
        encrypted,
        /// CRYPTO_IN.
        decrypted,
    }
}
counters! {
    /// Data units of successful requests with digests, by algorithm.
    Digests {
        /// CRC-32C.
        crc32c,
        /// XXH64.
        xxhash64,
        /// SHA-256.
        sha256,
        /// BLAKE2b-256.
        blake2b_256,
    }
}
counters! {
    /// Events of the keyslots.
    Keyslots {
        /// Successful KEYSLOT_PROGRAM commands.
        program,
        /// Successful KEYSLOT_PROGRAM commands that replaced another key. Linux reuses its least recently used slot
        /// like this, without an evict command.
        replace,
        /// KEYSLOT_PROGRAM commands that failed.
        program_failed,
        /// KEYSLOT_EVICT commands that emptied a slot.
        evict,
        /// KEYSLOT_EVICT commands for a slot that was empty.
        evict_empty,
        /// Keys lost in a reset, when the frontend disconnected, or by a fault.
        lost,
        /// Encrypted requests that found a key in their slot.
        hits,
        /// Encrypted requests whose slot had no key.
        nokey,
        /// Programmed AES-XTS keys with two equal halves.
        equal_halves,
    }
}
counters! {
    /// Keys that came with requests, of an engine without keyslots.
    RequestKeys {
        /// Requests that brought a usable key along.
        requests,
        /// Expanded keys. Requests that are served together and have the same key share one.
        expanded,
        /// Hardware-wrapped keys that were unwrapped.
        unwrapped,
        /// Hardware-wrapped keys that were in the cache (`--cache-unwrapped`).
        cached,
    }
}
counters! {
    /// Commands for hardware-wrapped keys, whether they succeeded or not.
    WrappedKeys {
        /// GENERATE_KEY.
        generate,
        /// IMPORT_KEY.
        import,
        /// PREPARE_KEY.
        prepare,
        /// DERIVE_SW_SECRET.
        derive_sw_secret,
    }
}
counters! {
    /// Events of the device.
    Events {
        /// Resets of the device, of every kind, and sessions that ended.
        reset,
        /// Resets of the engine alone (`ctl reset-engine`): all keys are lost, everything else continues.
        engine_reset,
        /// Flushes of the image: for FLUSH, for writes in write-through mode, and at exit.
        flush,
        /// Queues retired because the driver broke the rules of the ring.
        broken_queue,
        /// Requests struck by a fault (`docs/faults.md`).
        fault,
    }
}
counters! {
    /// One type of request in one queue. Types without requests are not listed.
    QueueType {
        /// All requests of the type.
        requests,
        /// Requests refused before execution.
        refused,
        /// Requests that ended with another status than OK, including refused ones.
        errors,
        /// Bytes of successful requests: data, or the ranges of DISCARD, WRITE_ZEROES and SECURE_ERASE.
        bytes,
    }
}
counters! {
    /// One queue, all types together.
    QueueTotals {
        /// Requests refused with UNSUPP: the type is unknown or was not negotiated.
        unsupported,
        /// Encrypted requests whose slot had no key.
        nokey,
        /// Data units of successful CRYPTO_OUT.
        encrypted,
        /// Data units of successful CRYPTO_IN.
        decrypted,
    }
}
