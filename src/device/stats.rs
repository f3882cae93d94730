// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the device counts. The counters only ever rise, until the process ends.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::crypto::Engine;
use crate::keyslot::Evicted;
use crate::protocol::Status;
use crate::request::{ControlCommand, Refusal, Request};

/// A number that only rises.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

impl Serialize for Counter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.load(Ordering::Relaxed))
    }
}

macro_rules! counters {
    ($(#[$about:meta])* $group:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$about])*
        #[derive(Debug, Default, Serialize)]
        struct $group { $($(#[$doc])* $name: Counter,)* }
    };
}

counters! {
    /// Requests that passed all checks of their form, by type, whether they then succeeded or not.
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
        /// Requests refused for their form with IOERR: out of range, not aligned, too short.
        refused,
        /// Requests of a type that the device does not know or that was not negotiated: UNSUPP.
        unsupported,
        /// Requests that passed the checks and failed with IOERR or UNSUPP.
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
    /// Events of the keyslots.
    Keyslots {
        /// Successful KEYSLOT_PROGRAM commands.
        program,
        /// Those of `program` that took the place of another key. Linux reuses its least recently used slot like this,
        /// without an evict command.
        replace,
        /// KEYSLOT_PROGRAM commands that failed.
        program_failed,
        /// KEYSLOT_EVICT commands that emptied a slot.
        evict,
        /// KEYSLOT_EVICT commands for a slot that was empty.
        evict_empty,
        /// Keys lost in a reset, when all queues were stopped (a paused machine, too) or with the frontend.
        lost,
        /// Encrypted requests whose slot was empty.
        nokey,
        /// Programmed AES-XTS keys with two equal halves.
        equal_halves,
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
        /// Resets, by whatever means, and sessions that ended.
        reset,
        /// Times that everything written was made durable: FLUSH, writes in write-through mode, and at exit.
        flush,
        /// Queues stopped because the driver broke the rules of the ring.
        broken_queue,
    }
}

/// All counters of a device.
#[derive(Debug, Serialize)]
pub struct Stats {
    /// The name of the engine.
    engine: &'static str,
    requests: Requests,
    bytes: Bytes,
    data_units: DataUnits,
    keyslots: Keyslots,
    wrapped_keys: WrappedKeys,
    events: Events,
}

impl Stats {
    /// All counters 0.
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine: engine.name(),
            requests: Requests::default(),
            bytes: Bytes::default(),
            data_units: DataUnits::default(),
            keyslots: Keyslots::default(),
            wrapped_keys: WrappedKeys::default(),
            events: Events::default(),
        }
    }

    pub(super) fn count_request(&self, request: &Request<'_>) {
        let counter = match request {
            Request::Read { crypto: None, .. } => &self.requests.r#in,
            Request::Read { crypto: Some(_), .. } => &self.requests.crypto_in,
            Request::Write { crypto: None, .. } => &self.requests.out,
            Request::Write { crypto: Some(_), .. } => &self.requests.crypto_out,
            Request::Flush => &self.requests.flush,
            Request::GetId => &self.requests.get_id,
            Request::Discard(_) => &self.requests.discard,
            Request::WriteZeroes(_) => &self.requests.write_zeroes,
            Request::SecureErase(_) => &self.requests.secure_erase,
            Request::Control(command) => {
                match command {
                    ControlCommand::GenerateKey => self.wrapped_keys.generate.add(1),
                    ControlCommand::ImportKey(_) => self.wrapped_keys.import.add(1),
                    ControlCommand::PrepareKey(_) => self.wrapped_keys.prepare.add(1),
                    ControlCommand::DeriveSwSecret(_) => self.wrapped_keys.derive_sw_secret.add(1),
                    ControlCommand::GetCryptoModes | ControlCommand::Program(_) | ControlCommand::Evict { .. } => {}
                }
                &self.requests.control
            }
        };
        counter.add(1);
    }

    pub(super) fn count_refusal(&self, refusal: &Refusal) {
        match refusal.status {
            Status::Unsupp => self.requests.unsupported.add(1),
            _ => self.requests.refused.add(1),
        }
    }

    pub(super) fn count_failure(&self, status: Status) {
        match status {
            Status::NoKey => self.keyslots.nokey.add(1),
            _ => self.requests.failed.add(1),
        }
    }

    /// A successful read, with the data unit size when it was decrypted.
    pub(super) fn count_read(&self, bytes: u64, data_unit_bits: Option<u8>) {
        match data_unit_bits {
            None => self.bytes.r#in.add(bytes),
            Some(bits) => {
                self.bytes.crypto_in.add(bytes);
                self.data_units.decrypted.add(bytes >> bits);
            }
        }
    }

    /// A successful write, with the data unit size when it was encrypted.
    pub(super) fn count_write(&self, bytes: u64, data_unit_bits: Option<u8>) {
        match data_unit_bits {
            None => self.bytes.out.add(bytes),
            Some(bits) => {
                self.bytes.crypto_out.add(bytes);
                self.data_units.encrypted.add(bytes >> bits);
            }
        }
    }

    /// `None` when programming failed.
    pub(super) fn count_program(&self, replaced: Option<Evicted>) {
        match replaced {
            None => self.keyslots.program_failed.add(1),
            Some(evicted) => {
                self.keyslots.program.add(1);
                self.keyslots.replace.add(u64::from(evicted == Evicted::Key));
            }
        }
    }

    pub(super) fn count_evict(&self, evicted: Evicted) {
        match evicted {
            Evicted::Key => self.keyslots.evict.add(1),
            Evicted::Nothing => self.keyslots.evict_empty.add(1),
        }
    }

    pub(super) fn count_equal_halves(&self) {
        self.keyslots.equal_halves.add(1);
    }

    pub(super) fn count_stop(&self, lost_keys: usize) {
        self.keyslots.lost.add(lost_keys as u64); // usize to u64 loses nothing
    }

    pub(super) fn count_reset(&self, lost_keys: usize) {
        self.events.reset.add(1);
        self.keyslots.lost.add(lost_keys as u64); // usize to u64 loses nothing
    }

    pub(super) fn count_flush(&self) {
        self.events.flush.add(1);
    }

    pub(super) fn count_broken_queue(&self) {
        self.events.broken_queue.add(1);
    }
}
