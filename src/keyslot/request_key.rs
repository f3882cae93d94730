// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys that come with requests, for an engine without keyslots.
//!
//! Each is expanded in a place of its own in locked memory, and wiped there. A worker has a fixed number of places.

#![forbid(unsafe_code)]

use std::io;

use smallvec::SmallVec;

use super::{KeyConfig, ProgrammedKey};
use crate::secret::SecretBox;
use scattered_xts::{Implementation, KEY_BYTES, XtsKey};

/// How many requests of one worker can have a key at a time; others wait. A place is a page of locked memory.
pub const PLACES: usize = 64;

/// How many keys are kept until their requests complete, for requests with the same keys.
const MOST_RECENT: usize = 4;

/// A key and what it was expanded from.
pub struct RequestKey {
    raw: [u8; KEY_BYTES],
    expanded: ProgrammedKey,
}

/// A place for a key, in locked memory.
pub type Place = SecretBox<RequestKey>;

/// One worker's keys.
pub struct RequestKeys {
    free: Vec<Place>,
    recent: SmallVec<[Place; MOST_RECENT]>,
}

impl RequestKey {
    /// The raw key, to be filled in before [`RequestKeys::expand`].
    pub fn raw_mut(&mut self) -> &mut [u8; KEY_BYTES] {
        &mut self.raw
    }

    /// The raw key.
    pub fn raw(&self) -> &[u8; KEY_BYTES] {
        &self.raw
    }

    /// The expanded key.
    pub fn key(&self) -> &ProgrammedKey {
        &self.expanded
    }

    /// Compares in constant time.
    fn is_same(&self, other: &Self) -> bool {
        let differ = self.raw.iter().zip(&other.raw).fold(0, |differ, (a, b)| differ | (a ^ b));
        std::hint::black_box(differ) == 0
    }

    fn wipe(&mut self) {
        // Writes the whole array at once. The compiler must not remove that.
        self.raw = [0; KEY_BYTES];
        std::hint::black_box(&self.raw);
        self.expanded.xts.wipe();
    }
}

impl RequestKeys {
    /// Creates free places.
    ///
    /// # Errors
    /// When the memory cannot be allocated or locked.
    pub fn new(places: usize, implementation: Implementation) -> io::Result<Self> {
        let config = KeyConfig { data_unit_bits: 0, dun_bytes: 0 };
        let blank = || {
            let expanded = ProgrammedKey { xts: XtsKey::blank(implementation), config };
            SecretBox::new(RequestKey { raw: [0; KEY_BYTES], expanded })
        };
        Ok(Self { free: (0..places).map(|_| blank()).collect::<io::Result<_>>()?, recent: SmallVec::new() })
    }

    /// A free place, unless requests use all of them.
    pub fn take(&mut self) -> Option<Place> {
        if self.free.is_empty() {
            self.release_recent();
        }
        self.free.pop()
    }

    /// Expands the raw key in a place. Returns the place to use: another one, and false, if a request that is about to
    /// complete has the same key. The caller wipes the stack.
    pub fn expand(&mut self, mut place: Place, config: KeyConfig) -> (Place, bool) {
        if let Some(same) = self.recent.iter().position(|recent| recent.is_same(&place)) {
            place.wipe();
            self.free.push(std::mem::replace(&mut place, self.recent.swap_remove(same)));
            place.expanded.config = config;
            return (place, false);
        }
        let RequestKey { raw, expanded } = &mut *place;
        expanded.xts.set(raw);
        expanded.config = config;
        (place, true)
    }

    /// A request is done with its last byte. [`release_recent`](Self::release_recent) wipes its key at the latest.
    pub fn keep(&mut self, place: Place) {
        if self.recent.len() == MOST_RECENT {
            self.give_back_first();
        }
        self.recent.push(place);
    }

    /// A request does not need its key any more.
    pub fn give_back(&mut self, mut place: Place) {
        place.wipe();
        self.free.push(place);
    }

    fn give_back_first(&mut self) {
        if !self.recent.is_empty() {
            let place = self.recent.remove(0);
            self.give_back(place);
        }
    }

    /// Wipes the kept keys. Call it before requests complete.
    pub fn release_recent(&mut self) {
        while let Some(place) = self.recent.pop() {
            self.give_back(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: KeyConfig = KeyConfig { data_unit_bits: 12, dun_bytes: 8 };

    fn put(keys: &mut RequestKeys, byte: u8) -> (Place, bool) {
        let mut place = keys.take().expect("a place");
        assert!(place.raw == [0; KEY_BYTES] && place.expanded.xts.is_blank());
        *place.raw_mut() = std::array::from_fn(|i| byte ^ i as u8);
        keys.expand(place, CONFIG)
    }

    /// Nothing is left of a key in a free place, and only a kept one is shared.
    #[test]
    fn keys_are_shared_while_they_are_kept_and_wiped_then() {
        for implementation in Implementation::available() {
            let mut keys = RequestKeys::new(6, implementation).expect("locked memory");
            let (first, expanded) = put(&mut keys, 1);
            assert!(expanded);
            let (second, expanded) = put(&mut keys, 1);
            assert!(expanded, "the first is in use");
            keys.keep(first);
            let (third, expanded) = put(&mut keys, 1);
            assert!(!expanded && !third.expanded.xts.is_blank());
            keys.give_back(second);
            keys.keep(third);
            for byte in 2..9 {
                let (place, expanded) = put(&mut keys, byte);
                assert!(expanded);
                keys.keep(place);
            }
            assert_eq!(keys.recent.len(), MOST_RECENT);
            keys.release_recent();
            assert_eq!(keys.free.len(), 6);
            assert!(keys.free.iter().all(|place| place.raw == [0; KEY_BYTES] && place.expanded.xts.is_blank()));
            let all: Vec<_> = (0..6).filter_map(|_| keys.take()).collect();
            assert!(all.len() == 6 && keys.take().is_none());
        }
    }
}
