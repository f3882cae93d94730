// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Commands: keys into slots, hardware-wrapped keys, and what the engine offers.

use std::time::{Duration, Instant};

use super::{Engine, EngineConfig, Failure, Io, check_guest_memory};
use crate::faults::Fate;
use crate::keyslot::{Claim, Evicted, KeyConfig, NoSuchSlot};
use crate::observe::Stage;
use crate::request::{
    Capabilities, ControlCommand, KeyDescription, KeyType, Programming, reply_blob, reply_extensions, reply_whole,
};
use crate::secret::{COMMAND_STACK, PROGRAM_STACK, with_wiped_stack};
use crate::segments::Room;
use crate::wrapped::Wrapping;
use scattered_xts::KEY_BYTES;

impl Engine {
    /// Executes a command after all earlier commands of this worker. It takes as long as on the emulated hardware.
    pub(super) async fn command(
        &self,
        io: &mut Io<'_>,
        command: &ControlCommand<'_>,
        fate: Option<&Fate>,
    ) -> Result<(), Failure> {
        self.finish_prefetch(io);
        let turn = io.worker.command_turn(io.token).await;
        io.record.watch.lap(Stage::Other);
        // Otherwise the command would wait for keys that this worker keeps.
        io.worker.keys.borrow_mut().release_all();
        if let Some(fate) = fate {
            Box::pin(self.lose(io, None, fate.loss)).await;
        }
        let fails = fate.is_some_and(|fate| fate.io_error);
        let latency = match command {
            ControlCommand::Program(programming) => {
                let programmed = self.program(io, programming, fails).await;
                io.record.watch.lap(Stage::Program);
                programmed?;
                self.config.timing.program
            }
            ControlCommand::Evict { slot } => {
                let slot = *slot;
                self.check_has_slots()?;
                if fails {
                    return Err(Failure::Fault);
                }
                let evicted = io.worker.wait_for_keyslot(io.token, self.empty_slot(slot)).await?;
                self.observer.count_evict(slot, evicted == Evicted::Key);
                self.config.timing.evict
            }
            command => {
                with_wiped_stack::<COMMAND_STACK, _>(|| self.answer(command, &mut io.room))?;
                Duration::ZERO
            }
        };
        drop(turn);
        if !latency.is_zero() {
            io.sleep_until(Instant::now() + latency).await;
        }
        Ok(())
    }

    /// Puts a key into a slot, and waits until no request uses the previous one. A refused command does not change the
    /// slot.
    async fn program(&self, io: &mut Io<'_>, programming: &Programming<'_>, fails: bool) -> Result<(), Failure> {
        let slot = programming.slot;
        let programmed = async {
            let config = self.check(programming)?;
            let mut claim = self.keyslots.claim(slot).await?;
            if fails {
                self.empty(claim, slot).await;
                return Err(Failure::Fault);
            }
            // For a fault. The copies take more stack.
            let keep = self.faults.kept.keeping();
            let load = || self.load(&mut claim, programming, config, keep);
            if programming.key.key_type == Some(KeyType::Raw) && !keep {
                with_wiped_stack::<PROGRAM_STACK, _>(load)?;
            } else {
                with_wiped_stack::<COMMAND_STACK, _>(load)?;
            }
            Ok(claim.drained().await)
        };
        let replaced = io.worker.wait_for_keyslot(io.token, programmed).await;
        self.observer.count_program(slot, replaced.as_ref().ok().map(|&evicted| evicted == Evicted::Key));
        replaced.map(drop)
    }

    /// The configuration of a slot, if the engine supports it.
    fn check(&self, programming: &Programming<'_>) -> Result<KeyConfig, Failure> {
        self.check_has_slots()?;
        if programming.slot >= u32::from(self.config.keyslots) {
            return Err(NoSuchSlot.into());
        }
        self.check_key(&programming.key)
    }

    fn check_has_slots(&self) -> Result<(), Failure> {
        if self.has_keys_in_requests() { Err(Failure::Unsupported) } else { Ok(()) }
    }

    /// The configuration of a key, if the engine supports it.
    pub(super) fn check_key(&self, key: &KeyDescription) -> Result<KeyConfig, Failure> {
        let KeyDescription { is_aes_256_xts, key_type, data_unit_bits, dun_bytes, .. } = *key;
        let offered = match key_type {
            Some(KeyType::Raw) => self.config.raw_keys,
            Some(KeyType::Wrapped) => self.wrapping.is_some(),
            None => false,
        };
        let unit = 1u32.checked_shl(data_unit_bits).unwrap_or(0);
        if !is_aes_256_xts
            || !offered
            || self.config.data_unit_mask & unit == 0
            || dun_bytes > u32::from(self.config.max_dun_bytes)
        {
            return Err(Failure::Unsupported);
        }
        if dun_bytes == 0 {
            return Err(Failure::Malformed);
        }
        // Both values were bounded above: at most 31, and at most 255.
        Ok(KeyConfig { data_unit_bits: data_unit_bits as u8, dun_bytes: dun_bytes as u8 })
    }

    /// Copies the key from guest memory and publishes it. The caller wipes the stack.
    fn load(
        &self,
        claim: &mut Claim<'_>,
        programming: &Programming<'_>,
        config: KeyConfig,
        keep: bool,
    ) -> Result<(), Failure> {
        let key = programming.read_key();
        check_guest_memory()?;
        let bytes = usize::try_from(programming.key.key_size).ok().and_then(|size| key.get(..size));
        let bytes = bytes.ok_or(Failure::Malformed)?;
        let derived;
        let key: &[u8; KEY_BYTES] = if programming.key.key_type == Some(KeyType::Raw) {
            bytes.try_into().map_err(|_| Failure::Malformed)?
        } else {
            derived = self.wrapping()?.inline_key(bytes)?;
            &derived
        };
        if halves_are_equal(key) {
            // Weak, but the kernel's fallback accepts it.
            self.observer.count_equal_halves();
        }
        let generation = self.keyslots.next_generation();
        if keep {
            self.faults.kept.programmed(programming.slot, generation, self.config.crypto_engine, key)?;
        }
        claim.publish(generation, key, config);
        Ok(())
    }

    pub(super) fn wrapping(&self) -> Result<&Wrapping, Failure> {
        self.wrapping.as_ref().ok_or(Failure::Unsupported)
    }

    /// What the engine offers to the driver.
    pub fn capabilities(&self) -> Capabilities {
        let EngineConfig { keyslots, raw_keys, data_unit_mask, max_dun_bytes, .. } = self.config;
        Capabilities { keyslots, raw_keys, wrapped_keys: self.takes_wrapped_keys(), data_unit_mask, max_dun_bytes }
    }

    /// Executes a command that changes no slot.
    fn answer(&self, command: &ControlCommand<'_>, room: &mut Room<'_>) -> Result<(), Failure> {
        let answered = match command {
            ControlCommand::GetCryptoModes => {
                self.capabilities().reply_modes(room);
                true
            }
            ControlCommand::GetCharacteristics => self.capabilities().reply_characteristics(room),
            ControlCommand::GetExtensions => {
                let (keys, digests) = (self.has_keys_in_requests(), &self.config.digests);
                (keys || !digests.is_empty()).then_some(()).ok_or(Failure::Unsupported)?;
                reply_extensions(room, keys, digests)
            }
            ControlCommand::GenerateKey => reply_blob(room, &self.wrapping()?.generate()?),
            ControlCommand::ImportKey(raw) => {
                reply_blob(room, &self.wrapping()?.import(raw.read_key().bytes().ok_or(Failure::Malformed)?)?)
            }
            ControlCommand::PrepareKey(long_term) => {
                reply_blob(room, &self.wrapping()?.prepare(long_term.bytes().ok_or(Failure::Malformed)?)?)
            }
            ControlCommand::DeriveSwSecret(ephemeral) => {
                let secret = self.wrapping()?.sw_secret(ephemeral.bytes().ok_or(Failure::Malformed)?)?;
                reply_whole(room, &*secret)
            }
            // `command` executes these.
            ControlCommand::Program(_) | ControlCommand::Evict { .. } => return Err(Failure::Unsupported),
        };
        // A reply that does not fit is not written at all.
        if answered { Ok(()) } else { Err(Failure::Malformed) }
    }
}

/// Compares in constant time.
pub(super) fn halves_are_equal(key: &[u8; KEY_BYTES]) -> bool {
    let (data, tweak) = key.split_at(KEY_BYTES / 2);
    data.iter().zip(tweak).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_differ_wherever_they_differ() {
        let mut key = [7; KEY_BYTES];
        assert!(halves_are_equal(&key));
        // The same difference twice.
        (key[1], key[5]) = (3, 3);
        assert!(!halves_are_equal(&key));
        for at in 0..KEY_BYTES {
            let mut key = [7; KEY_BYTES];
            key[at] ^= 0x80;
            assert!(!halves_are_equal(&key), "{at}");
        }
    }
}
