// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Commands of the control virtqueue: what the device offers, and keys into slots.

use std::time::Duration;

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use super::job::Next;
use super::{Device, DeviceLane, Failure};
use crate::crypto::KEY_BYTES;
use crate::faults::Fate;
use crate::keyslot::{Evicted, KeyConfig};
use crate::observe::{Kind, Record, Stage};
use crate::protocol::{AES_256_XTS_KEY_BYTES, KeyBlob, crypto_mode, key_type};
use crate::request::{ControlCommand, Programming, Reply};
use crate::secret::{COMMAND_STACK, PROGRAM_STACK, with_wiped_stack};
use crate::vhost::Token;
use crate::wrapped::{Blob, Wrapping};

const _: () = assert!(AES_256_XTS_KEY_BYTES == KEY_BYTES);

impl Device {
    /// Whether a command has to wait for requests that use a key: some of them may be this worker's.
    pub(super) fn must_wait(&self, command: &ControlCommand<'_>) -> bool {
        match command {
            ControlCommand::Program(Programming { slot, .. }) | ControlCommand::Evict { slot } => {
                self.keyslots.is_in_use(*slot)
            }
            _ => false,
        }
    }

    /// Does what a command says, and takes the time for it that the emulated hardware takes.
    pub(super) fn control<'m>(
        &self,
        lane: &mut DeviceLane,
        token: Token,
        command: ControlCommand<'m>,
        reply: &mut Reply<'m>,
        record: &mut Record,
        fate: Option<&Fate>,
    ) -> Result<Next<'m>, Failure> {
        // Programming and evicting wait for whoever has the key, and that may be this worker.
        lane.keys.release();
        let latency = self.latency(&command);
        let result = if fate.is_some_and(|fate| fate.io_error) {
            Err(self.fail_command(&command))
        } else if is_raw(&command) {
            with_wiped_stack::<PROGRAM_STACK, _>(|| self.command(command, reply))
        } else {
            with_wiped_stack::<COMMAND_STACK, _>(|| self.command(command, reply))
        };
        if record.kind() == Kind::Program {
            record.watch.lap(Stage::Program);
        }
        result.map(|()| self.after(lane, token, latency))
    }

    /// What the emulated hardware takes for a command.
    fn latency(&self, command: &ControlCommand<'_>) -> Duration {
        match command {
            ControlCommand::Program(_) => self.config.timing.program,
            ControlCommand::Evict { .. } => self.config.timing.evict,
            _ => Duration::ZERO,
        }
    }

    fn command(&self, command: ControlCommand<'_>, reply: &mut Reply<'_>) -> Result<(), Failure> {
        match command {
            ControlCommand::GetCryptoModes => {
                let mut modes = [U32::ZERO; crypto_mode::TABLE_LEN];
                if let Some(mask) = modes.get_mut(crypto_mode::AES_256_XTS as usize) {
                    mask.set(self.config.data_unit_mask);
                }
                // Whole entries only, as many as the reader has room for.
                let room = usize::try_from(reply.room()).unwrap_or(usize::MAX) / size_of::<U32>();
                modes.iter().take(room).enumerate().for_each(|(index, entry)| {
                    reply.write((index * size_of::<U32>()) as u64, entry.as_bytes()); // a few bytes
                });
                Ok(())
            }
            ControlCommand::GetCharacteristics => reply_whole(reply, self.characteristics().as_bytes()),
            ControlCommand::Program(programming) => {
                let result = self.program(&programming);
                if result.is_err() {
                    // Whatever the slot held, it does not hold what the driver wanted. A slot that does not exist is
                    // the error already.
                    let _ = self.empty_slot(programming.slot);
                }
                let replaced = result.as_ref().ok().map(|&evicted| evicted == Evicted::Key);
                self.observer.count_program(programming.slot, replaced);
                result.map(drop)
            }
            ControlCommand::Evict { slot } => {
                let evicted = self.empty_slot(slot)?;
                self.observer.count_evict(slot, evicted == Evicted::Key);
                Ok(())
            }
            ControlCommand::GenerateKey => {
                let blob = self.wrapping()?.generate()?;
                reply_blob(reply, &blob)
            }
            ControlCommand::ImportKey(raw) => {
                let blob = self.wrapping()?.import(raw.read_key().bytes().ok_or(Failure::Malformed)?)?;
                reply_blob(reply, &blob)
            }
            ControlCommand::PrepareKey(long_term) => {
                let blob = self.wrapping()?.prepare(long_term.bytes().ok_or(Failure::Malformed)?)?;
                reply_blob(reply, &blob)
            }
            ControlCommand::DeriveSwSecret(ephemeral) => {
                let secret = self.wrapping()?.sw_secret(ephemeral.bytes().ok_or(Failure::Malformed)?)?;
                reply_whole(reply, &*secret)
            }
        }
    }

    fn wrapping(&self) -> Result<&Wrapping, Failure> {
        self.wrapping.as_ref().ok_or(Failure::Unsupported)
    }

    fn program(&self, programming: &Programming<'_>) -> Result<Evicted, Failure> {
        let Programming { slot, usage, .. } = *programming;
        if slot >= u32::from(self.config.keyslots) {
            return Err(crate::keyslot::NoSuchSlot.into());
        }
        if usage.crypto_mode.get() != crypto_mode::AES_256_XTS {
            return Err(Failure::Unsupported);
        }
        let wrapping = match usage.key_type.get() {
            key_type::RAW if self.config.raw_keys => None,
            key_type::HW_WRAPPED => Some(self.wrapping()?),
            _ => return Err(Failure::Unsupported),
        };
        let data_unit_bits = usage.data_unit_size_bits.get();
        let unit = 1u32.checked_shl(data_unit_bits).ok_or(Failure::Unsupported)?;
        if self.config.data_unit_mask & unit == 0 {
            return Err(Failure::Unsupported);
        }
        let dun_bytes = usage.dun_bytes.get();
        if dun_bytes > u32::from(self.config.max_dun_bytes) {
            return Err(Failure::Unsupported);
        }
        if dun_bytes == 0 {
            return Err(Failure::Malformed);
        }
        let key = programming.read_key();
        let bytes = usize::try_from(usage.key_size.get()).ok().and_then(|size| key.get(..size));
        let bytes = bytes.ok_or(Failure::Malformed)?;
        let derived;
        let key: &[u8; KEY_BYTES] = match wrapping {
            None => bytes.try_into().map_err(|_| Failure::Malformed)?,
            Some(wrapping) => {
                derived = wrapping.inline_key(bytes)?;
                &derived
            }
        };
        if halves_are_equal(key) {
            // Weak, but what the kernel's fallback accepts.
            self.observer.count_equal_halves();
        }
        // Both values were bounded above: at most 31, and at most 255.
        let config = KeyConfig { data_unit_bits: data_unit_bits as u8, dun_bytes: dun_bytes as u8 };
        let replaced = self.keyslots.program(slot, key, config)?;
        self.keep_key(slot, key)?;
        Ok(replaced)
    }
}

/// Whether it is a raw key that goes into a slot.
fn is_raw(command: &ControlCommand<'_>) -> bool {
    matches!(command, ControlCommand::Program(key) if key.usage.key_type.get() == key_type::RAW)
}

fn reply_blob(reply: &mut Reply<'_>, blob: &Blob) -> Result<(), Failure> {
    let mut message = KeyBlob::new_zeroed();
    message.key_size.set(blob.len() as u32); // 68
    message.key.iter_mut().zip(blob).for_each(|(to, from)| *to = *from);
    reply_whole(reply, message.as_bytes())
}

/// A reply that does not fit is not given at all.
fn reply_whole(reply: &mut Reply<'_>, bytes: &[u8]) -> Result<(), Failure> {
    if reply.room() < bytes.len() as u64 {
        return Err(Failure::Malformed);
    }
    reply.write(0, bytes);
    Ok(())
}

/// In constant time.
fn halves_are_equal(key: &[u8; KEY_BYTES]) -> bool {
    let (data, tweak) = key.split_at(KEY_BYTES / 2);
    data.iter().zip(tweak).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
