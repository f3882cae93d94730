// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The crypto registers: CCAP, CRYPTOCAP and the array of crypto configurations, by which a driver programs keyslots.
//!
//! Dwords 0 to 15 of a configuration are a key. A driver can write them and never read them. A write of dword 16 with the enable
//! bit programs the slot with that key. A driver writes dword 16 without the bit before it programs a slot, and to clear one. So the
//! first such write only keeps requests away from the slot; a second one empties it. Each write of dword 16 wipes the others.
#![forbid(unsafe_code)]

use std::io;

use zeroize::Zeroize;

use crate::ratelimit::log_limited;
use crate::request::{ControlCommand, KeyDescription, KeyRegisters, KeyType, Programming};
use crate::secret::SecretBox;
use scattered_xts::KEY_BYTES;

/// The maximum number of slots that CCAP can express.
pub const MOST_SLOTS: u16 = 256;

/// UFS has data unit numbers of 64 bits.
pub const DUN_BYTES: u8 = 8;

const CONFIG_DWORD: u64 = 16;
/// Of dword 16.
const ENABLE: u32 = 1 << 31;
const ALL_WRITTEN: u16 = u16::MAX;

/// A change of a keyslot that a driver has asked for.
#[derive(Debug)]
pub enum Change {
    /// Program this key.
    Program(KeyDescription, KeyRegisters),
    /// Empty the slot.
    Evict,
}

impl Change {
    /// Whether it programs a key.
    pub fn programs(&self) -> bool {
        matches!(self, Self::Program(..))
    }

    /// As a command for the engine.
    pub fn into_command<'m>(self, slot: u32) -> ControlCommand<'m> {
        match self {
            Self::Program(key, registers) => ControlCommand::Program(Programming::from_registers(slot, key, registers)),
            Self::Evict => ControlCommand::Evict { slot },
        }
    }
}

#[derive(Default)]
struct Slot {
    /// The dwords of the key that have been written since the last one was taken.
    written: u16,
    /// Dword 16.
    config: u32,
    /// Requests may use it.
    enabled: bool,
    /// The keyslot may hold a key.
    holds_key: bool,
    /// A change is under way.
    busy: bool,
    /// The next change. A later one replaces it.
    next: Option<Change>,
}

/// The crypto registers.
pub struct CryptoRegisters {
    slots: Vec<Slot>,
    keys: SecretBox<[[u8; KEY_BYTES]; MOST_SLOTS as usize]>,
    /// Bit i: data units of 512 << i bytes.
    data_units: u8,
}

impl CryptoRegisters {
    /// Registers of an engine with so many slots, which are empty.
    ///
    /// # Errors
    /// When no memory can be locked.
    pub fn new(slots: u16, data_unit_mask: u32) -> io::Result<Self> {
        let slots = (0..slots.min(MOST_SLOTS)).map(|_| Slot::default()).collect();
        let keys = SecretBox::new([[0; KEY_BYTES]; MOST_SLOTS as usize])?;
        Ok(Self { slots, keys, data_units: (data_unit_mask >> 9) as u8 })
    }

    /// CCAP: one capability, so many configurations, and where they are.
    pub fn ccap(&self, array: u64) -> u32 {
        let configs = (self.slots.len() as u32).saturating_sub(1); // at most 255
        1 | configs << 8 | ((array / 0x100) as u32) << 24 // a byte
    }

    /// CRYPTOCAP 0: AES-XTS, the data unit sizes, keys of 256 bits.
    pub fn capability(&self) -> u32 {
        u32::from(self.data_units) << 8 | 3 << 16
    }

    /// Whether requests may use a slot.
    pub fn is_enabled(&self, slot: u32) -> bool {
        self.slot(slot).is_some_and(|slot| slot.enabled)
    }

    fn slot(&self, slot: u32) -> Option<&Slot> {
        usize::try_from(slot).ok().and_then(|slot| self.slots.get(slot))
    }

    /// Reads a dword. No part of a key can be read.
    pub fn read(&self, slot: u32, dword: u64) -> u32 {
        self.slot(slot).filter(|_| dword == CONFIG_DWORD).map_or(0, |slot| slot.config)
    }

    /// Writes a dword. Whether there is a change to be [taken](CryptoRegisters::take).
    pub fn write(&mut self, number: u32, dword: u64, value: u32) -> bool {
        let Some(place) = usize::try_from(number).ok().filter(|&place| place < self.slots.len()) else { return false };
        let (Some(slot), Some(key)) = (self.slots.get_mut(place), self.keys.get_mut(place)) else { return false };
        if dword < CONFIG_DWORD {
            let part = key.iter_mut().skip(4 * dword as usize); // less than 64
            part.zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
            slot.written |= 1 << dword;
            return false;
        }
        if dword != CONFIG_DWORD {
            return false;
        }
        let was_enabled = std::mem::replace(&mut slot.enabled, false);
        slot.config = value;
        let written = std::mem::take(&mut slot.written);
        if value & ENABLE == 0 {
            key.zeroize();
            if was_enabled || !(slot.holds_key || slot.busy) {
                return false;
            }
            slot.next = Some(Change::Evict);
        } else {
            let [data_unit, capability, ..] = value.to_le_bytes();
            let is_on_offer = data_unit.is_power_of_two() && data_unit & self.data_units != 0;
            let fits = is_on_offer && capability == 0 && written == ALL_WRITTEN;
            slot.next = Some(match fits.then(|| SecretBox::new([0; KEY_BYTES])) {
                Some(Ok(mut registers)) => {
                    registers.iter_mut().zip(key.iter()).for_each(|(to, from)| *to = *from);
                    let description = KeyDescription {
                        key_size: KEY_BYTES as u32, // 64
                        key_type: Some(KeyType::Raw),
                        is_aes_256_xts: true,
                        data_unit_bits: 9 + data_unit.trailing_zeros(),
                        dun_bytes: DUN_BYTES.into(),
                    };
                    Change::Program(description, KeyRegisters::new(registers))
                }
                // An empty slot is better than a wrong key.
                Some(Err(error)) => {
                    log_limited!(
                        warn,
                        "a keyslot stays empty, because no memory can be locked for its key: {error}; raise the limit (ulimit \
                         -l, LimitMEMLOCK=)"
                    );
                    Change::Evict
                }
                // An invalid configuration.
                None => Change::Evict,
            });
            key.zeroize();
        }
        !slot.busy
    }

    /// Takes the change to make now, if there is one.
    pub fn take(&mut self, slot: u32) -> Option<Change> {
        let slot = usize::try_from(slot).ok().and_then(|slot| self.slots.get_mut(slot))?;
        if slot.busy {
            return None;
        }
        slot.busy = slot.next.is_some();
        slot.next.take()
    }

    /// A change has ended; `done`: with success. Returns whether there is another one to take.
    pub fn finished(&mut self, slot: u32, programmed: bool, done: bool) -> bool {
        let Some(slot) = usize::try_from(slot).ok().and_then(|slot| self.slots.get_mut(slot)) else { return false };
        slot.busy = false;
        if done {
            slot.holds_key = programmed;
        }
        // Unless the driver has written the slot again meanwhile.
        slot.enabled = done && programmed && slot.next.is_none() && slot.config & ENABLE != 0;
        slot.next.is_some()
    }

    /// The controller is reset. No change is under way.
    pub fn reset(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = Slot::default());
        self.keys.iter_mut().for_each(Zeroize::zeroize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_key(registers: &mut CryptoRegisters, slot: u32) {
        (0..16).for_each(|dword| assert!(!registers.write(slot, dword, 0x0101_0101 * (dword as u32 + 1))));
    }

    /// What Linux does: disable, key, enable.
    #[test]
    fn programming_is_one_command_and_evicting_another() {
        let mut registers = CryptoRegisters::new(2, 0x1fe00).expect("locked memory");
        for round in 0..2 {
            assert!(!registers.write(1, 16, 0), "round {round}");
            write_key(&mut registers, 1);
            assert!(registers.write(1, 16, ENABLE | 8));
            let change = registers.take(1).expect("a change");
            assert!(change.programs());
            let ControlCommand::Program(programming) = change.into_command(1) else { panic!("no key") };
            assert_eq!((programming.slot, programming.key.data_unit_bits, programming.key.dun_bytes), (1, 12, 8));
            assert_eq!(programming.read_key()[..8], [1, 1, 1, 1, 2, 2, 2, 2]);
            assert!(!registers.is_enabled(1) && !registers.finished(1, true, true) && registers.is_enabled(1));
        }
        assert!((0..32).all(|dword| registers.read(1, dword) == if dword == 16 { ENABLE | 8 } else { 0 }));
        assert!(!registers.write(1, 16, 0) && !registers.is_enabled(1));
        write_key(&mut registers, 1);
        assert!(registers.write(1, 16, 0));
        assert!(matches!(registers.take(1), Some(Change::Evict)));
        assert!(!registers.finished(1, false, true));
        assert!(!registers.write(1, 16, 0), "it is empty");
        assert!(!registers.write(2, 16, ENABLE | 8), "there is no such slot");
    }

    /// A key of which a part is missing, a size or capability that there is not.
    #[test]
    fn no_key_is_better_than_a_wrong_one() {
        // Data units of 512 and 4096 bytes.
        let mut registers = CryptoRegisters::new(1, 0x1200).expect("locked memory");
        for config in [ENABLE, ENABLE | 3, ENABLE | 9, ENABLE | 2, ENABLE | 8 | 1 << 8] {
            write_key(&mut registers, 0);
            assert!(registers.write(0, 16, config));
            assert!(matches!(registers.take(0), Some(Change::Evict)), "{config:#x}");
            registers.finished(0, false, true);
        }
        write_key(&mut registers, 0);
        assert!(registers.write(0, 16, ENABLE | 8));
        assert!(registers.take(0).is_some() && registers.take(0).is_none());
        registers.finished(0, true, true);
        // The registers were wiped; there is no second key in them.
        assert!(registers.write(0, 16, ENABLE | 8));
        assert!(matches!(registers.take(0), Some(Change::Evict)));
        registers.finished(0, false, true);
        // The same after a slot was cleared that held no key.
        write_key(&mut registers, 0);
        assert!(!registers.write(0, 16, 0) && registers.keys.iter().flatten().all(|byte| *byte == 0));
        assert!(registers.write(0, 16, ENABLE | 8));
        assert!(matches!(registers.take(0), Some(Change::Evict)));
    }

    #[test]
    fn changes_of_a_slot_do_not_overtake_each_other() {
        let mut registers = CryptoRegisters::new(1, 0x1fe00).expect("locked memory");
        write_key(&mut registers, 0);
        assert!(registers.write(0, 16, ENABLE | 8));
        assert!(registers.take(0).is_some());
        write_key(&mut registers, 0);
        assert!(!registers.write(0, 16, ENABLE | 1), "the first one is under way");
        assert!(registers.take(0).is_none());
        assert!(registers.finished(0, true, true) && !registers.is_enabled(0), "the slot has an old key");
        let Some(Change::Program(key, _)) = registers.take(0) else { panic!("no key") };
        assert_eq!(key.data_unit_bits, 9);
        assert!(!registers.finished(0, true, true) && registers.is_enabled(0));
        // A slot is cleared while its first key is on the way.
        registers.reset();
        write_key(&mut registers, 0);
        assert!(registers.write(0, 16, ENABLE | 8));
        assert!(registers.take(0).is_some() && !registers.write(0, 16, 0) && !registers.write(0, 16, 0));
        assert!(registers.finished(0, true, true) && !registers.is_enabled(0));
        assert!(matches!(registers.take(0), Some(Change::Evict)));
    }
}
