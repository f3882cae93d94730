// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Recently unwrapped keys, for engines to which the same wrapped key comes with many requests.
//!
//! A key is found by its whole blob, which was authenticated when it was unwrapped, so a wrong blob is never found.
//! Keys are in locked memory. They are wiped when they expire, when others need the room, and in a reset.

#![forbid(unsafe_code)]

use std::io;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use scattered_xts::KEY_BYTES;
use zeroize::Zeroize;

use super::Blob;
use crate::lock::lock;
use crate::secret::SecretBox;

/// The maximum number of keys.
pub const MOST: usize = 24;

/// How long a key is kept after it was unwrapped.
pub const AGE: Duration = Duration::from_secs(1);

struct Entry {
    /// When to wipe it; `None`: empty.
    until: Option<Instant>,
    blob: Blob,
    key: [u8; KEY_BYTES],
}

/// Unwrapped keys by their blobs.
pub struct UnwrappedKeys(Mutex<SecretBox<[Entry; MOST]>>);

impl Entry {
    const NOTHING: Self = Self { until: None, blob: [0; size_of::<Blob>()], key: [0; KEY_BYTES] };

    fn wipe(&mut self) {
        self.key.zeroize();
        self.until = None;
    }
}

impl UnwrappedKeys {
    /// An empty cache.
    ///
    /// # Errors
    /// When the memory cannot be allocated or locked.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Mutex::new(SecretBox::new([Entry::NOTHING; MOST])?)))
    }

    fn entries(&self) -> MutexGuard<'_, SecretBox<[Entry; MOST]>> {
        lock(&self.0)
    }

    /// Copies the key of a blob to `key`. Returns false if it must be unwrapped.
    pub fn find(&self, blob: &[u8], now: Instant, key: &mut [u8; KEY_BYTES]) -> bool {
        let entries = self.entries();
        let found = entries.iter().find(|entry| entry.until.is_some_and(|until| until > now) && entry.blob == blob);
        if let Some(entry) = found {
            *key = entry.key;
        }
        found.is_some()
    }

    /// Keeps a key that was just unwrapped, in place of the oldest if necessary. Returns when to wipe it.
    pub fn keep(&self, blob: &[u8], now: Instant, key: &[u8; KEY_BYTES]) -> Option<Instant> {
        let until = now + AGE;
        let blob = blob.try_into().ok()?;
        let mut entries = self.entries();
        let entry = entries.iter_mut().min_by_key(|entry| entry.until)?;
        entry.blob = blob;
        entry.key = *key;
        entry.until = Some(until);
        Some(until)
    }

    /// Wipes expired keys. Returns when the next one expires.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        let mut entries = self.entries();
        entries.iter_mut().filter(|entry| entry.until.is_some_and(|until| until <= now)).for_each(Entry::wipe);
        entries.iter().filter_map(|entry| entry.until).min()
    }

    /// Wipes all keys.
    pub fn clear(&self) {
        self.entries().iter_mut().for_each(Entry::wipe);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> [u8; KEY_BYTES] {
        [byte; KEY_BYTES]
    }

    fn blob(byte: u8) -> Blob {
        [byte; size_of::<Blob>()]
    }

    #[test]
    fn only_the_whole_blob_finds_a_key_and_only_for_a_while() {
        let (keys, start) = (UnwrappedKeys::new().expect("locked memory"), Instant::now());
        let find = |blob: &[u8], now| {
            let mut found = [0; KEY_BYTES];
            keys.find(blob, now, &mut found).then_some(found)
        };
        assert_eq!(find(&blob(0), start), None, "what is not there");
        for byte in 0..MOST as u8 {
            let until = keys.keep(&blob(byte), start + Duration::from_millis(byte.into()), &key(byte));
            assert_eq!(until, Some(start + Duration::from_millis(byte.into()) + AGE));
        }
        assert!((0..MOST as u8).all(|byte| find(&blob(byte), start) == Some(key(byte))));
        for place in 0..size_of::<Blob>() {
            let mut wrong = blob(3);
            wrong[place] ^= 1;
            assert_eq!(find(&wrong, start), None);
        }
        assert_eq!(find(&blob(3)[1..], start), None);
        // The oldest makes room.
        keys.keep(&blob(100), start + Duration::from_millis(100), &key(100));
        assert_eq!((find(&blob(0), start), find(&blob(100), start)), (None, Some(key(100))));
        // An expired key is not found, wiped or not.
        let later = start + AGE + Duration::from_millis(5);
        assert_eq!((find(&blob(5), later), find(&blob(6), later)), (None, Some(key(6))));
        assert_eq!(keys.expire(later), Some(start + Duration::from_millis(6) + AGE));
        let left = |byte: u8| keys.entries().iter().any(|entry| entry.key == key(byte));
        assert!(!left(5) && left(6) && left(100));
        keys.clear();
        assert!(!left(6) && !left(100) && find(&blob(6), start).is_none());
        assert_eq!(keys.expire(start), None);
    }
}
