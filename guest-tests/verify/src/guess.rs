// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What may have gone wrong with a data unit: the mistakes that inline encryption is known for.

use std::collections::HashSet;

use anyhow::Result;

use crate::fscrypt::Numbering;
use crate::plan::{Crypto, Plan};
use crate::xts::Xts;

/// The maximum distance of a guessed number from the right one.
const NEARBY: u64 = 64;

/// Tries keys and data unit numbers on the bytes that were found.
pub struct Guesser<'a> {
    plan: &'a Plan,
    keys: Vec<(String, Xts)>,
    plan_dun: Option<Numbering>,
    unit: u64,
}

impl<'a> Guesser<'a> {
    /// Prepares the plan's own key, its wrong uses, and the keys of all other plans.
    pub fn new(plan: &'a Plan, all: &[Plan]) -> Result<Self> {
        let mut keys = Vec::new();
        let mut seen = HashSet::new();
        let mut plan_dun = None;
        if let Crypto::Xts { key, numbering } = &plan.crypto {
            plan_dun = Some(*numbering);
            let mut swapped = **key;
            swapped.rotate_left(32);
            seen.insert(**key);
            keys.push((String::new(), Xts::new(key)?));
            keys.push((" and the two halves of the key swapped".into(), Xts::new(&swapped)?));
        }
        for other in all {
            if let Crypto::Xts { key, .. } = &other.crypto
                && seen.insert(**key)
            {
                keys.push((format!(" and the key of {}", other.name), Xts::new(key)?));
            }
        }
        Ok(Self { plan, keys, plan_dun, unit: plan.data_unit_size })
    }

    /// Describes what the found bytes may be.
    pub fn guess(&mut self, index: u64, physical: u64, found: &[u8], plaintext: &[u8]) -> Result<String> {
        if let Some(words) = without_keys(found, plaintext) {
            return Ok(words.into());
        }
        let right = self.plan_dun.map(|numbering| numbering.dun(index)).transpose()?;
        if let Some(other) = self.misplaced(index, found)? {
            return Ok(format!("it is the right ciphertext of data unit {other}"));
        }
        let candidates = self.candidates(right, index, physical);
        for (key_words, xts) in &mut self.keys {
            for (dun, dun_words) in &candidates {
                if xts.decrypt(*dun, found)? == plaintext {
                    return Ok(format!("it is encrypted with data unit number {dun}{dun_words}{key_words}"));
                }
            }
        }
        if let (Some(right), Some((_, xts))) = (right, self.keys.first_mut()) {
            let good = xts.decrypt(right, found)?.chunks(16).zip(plaintext.chunks(16)).filter(|(f, p)| f == p).count();
            if good > 0 {
                return Ok(format!("{} of its {} bytes are right", good * 16, found.len()));
            }
        }
        Ok("neither plaintext nor zeros nor a known key with a likely data unit number".into())
    }

    /// The index of another data unit of the same file whose ciphertext this is.
    fn misplaced(&mut self, index: u64, found: &[u8]) -> Result<Option<u64>> {
        let (Some(numbering), Some((_, xts))) = (self.plan_dun, self.keys.first_mut()) else {
            return Ok(None);
        };
        for other in index.saturating_sub(NEARBY)..=index.saturating_add(NEARBY) {
            let plaintext =
                usize::try_from(other).ok().and_then(|other| self.plan.plaintext.chunks(found.len()).nth(other));
            if let Some(plaintext) = plaintext
                && other != index
                && xts.decrypt(numbering.dun(other)?, found)? == plaintext
            {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    fn candidates(&self, right: Option<u128>, index: u64, physical: u64) -> Vec<(u128, &'static str)> {
        let mut list = Vec::new();
        if let Some(right) = right {
            list.push((right, " (the right one)"));
            list.push((right.swap_bytes(), " (the right one, its bytes in reverse)"));
            for distance in 1..=u128::from(NEARBY) {
                list.push((right.wrapping_add(distance), " (too high)"));
                list.push((right.wrapping_sub(distance), " (too low)"));
            }
        }
        list.push((u128::from(index), " (the index in the file)"));
        list.push((u128::from(physical / 512), " (the sector on the disk)"));
        list.push((u128::from(physical / self.unit), " (the data unit on the disk)"));
        for small in 0..NEARBY {
            list.push((u128::from(small), " (a small one)"));
        }
        list
    }
}

fn without_keys(found: &[u8], plaintext: &[u8]) -> Option<&'static str> {
    if found == plaintext {
        return Some("this is plaintext");
    }
    if found.iter().all(|byte| *byte == 0) {
        return Some("these are zeros: never written, or discarded");
    }
    if found[..16] == plaintext[..16] && plaintext[..16] != [0; 16] {
        return Some("it begins like the plaintext");
    }
    None
}
