// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The key of a request in flight, from a slot or from the request itself.

use std::time::Instant;

use super::command::halves_are_equal;
use super::worker::Worker;
use super::{Engine, Failure, Io, check_guest_memory};
use crate::faults::{BrokenEngine, Fate};
use crate::keyslot::{KeyHandle, Place, ProgrammedKey};
use crate::request::{KeyDescription, KeyType, MAX_KEY_BYTES, NO_SLOT, Payload};
use crate::secret::{COMMAND_STACK, EXPANSION_STACK, PROGRAM_STACK, with_wiped_stack};
use scattered_xts::{Implementation, KEY_BYTES};
use zeroize::Zeroizing;

pub(super) enum InUse<'e> {
    /// Of a slot.
    Slot(u32, KeyHandle<'e>),
    /// Of the request.
    Request(OwnKey<'e>),
}

/// A key that came with a request. Wiped when it is dropped.
pub(super) struct OwnKey<'e> {
    worker: &'e Worker,
    /// `None` once it was given back.
    place: Option<Place>,
    /// Identifies it in traces.
    fingerprint: u64,
}

impl InUse<'_> {
    /// The key.
    ///
    /// # Errors
    /// [`Failure::NoKey`] if it was given back. Code that still needs the key does not do that.
    pub(super) fn key(&self) -> Result<&ProgrammedKey, Failure> {
        match self {
            Self::Slot(_, handle) => Ok(handle.key()),
            Self::Request(OwnKey { place: Some(place), .. }) => Ok(place.key()),
            Self::Request(_) => Err(Failure::NoKey),
        }
    }

    /// The generation of a slot's key; or the fingerprint of a request's key, if a trace needs it.
    pub(super) fn generation(&self) -> u64 {
        match self {
            Self::Slot(_, handle) => handle.generation(),
            Self::Request(own) => own.fingerprint,
        }
    }

    /// The request no longer needs the key; the next ones may.
    pub(super) fn keep(self, worker: &Worker) {
        match self {
            Self::Slot(slot, handle) => worker.keys.borrow_mut().keep(slot, handle),
            Self::Request(mut own) => {
                if let Some(place) = own.place.take() {
                    worker.keep_place(place);
                }
            }
        }
    }
}

impl Drop for OwnKey<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.worker.give_place_back(place);
        }
    }
}

type KeyAndFault<'e> = (InUse<'e>, Option<Box<BrokenEngine>>);

impl Engine {
    /// The key that a slot holds now.
    pub(super) fn key_of_slot<'e>(
        &'e self,
        io: &Io<'e>,
        slot: u32,
        fate: Option<&Fate>,
    ) -> Result<KeyAndFault<'e>, Failure> {
        if self.has_keys_in_requests() {
            return Err(Failure::Unsupported);
        }
        let broken = self.faults.engine(fate, slot);
        let key = io.worker.keys.borrow_mut().acquire(&self.keyslots, slot)?.ok_or(Failure::NoKey)?;
        let broken = broken.map(|broken| broken.with_generation(key.generation()));
        Ok((InUse::Slot(slot, key), broken))
    }

    /// Reads the key of a request from guest memory. Waits while too many other requests have one.
    pub(super) async fn key_of_request<'e>(
        &'e self,
        io: &mut Io<'e>,
        description: &KeyDescription,
        payload: &Payload<'_>,
        fate: Option<&Fate>,
    ) -> Result<KeyAndFault<'e>, Failure> {
        if !self.has_keys_in_requests() {
            return Err(Failure::Unsupported);
        }
        let config = self.check_key(description)?;
        let worker = io.worker;
        let mut place = worker.place(io.token).await;
        let (fingerprint, broken) = match self.fill(worker, &mut place, description, payload, fate) {
            Ok(filled) => filled,
            Err(failure) => {
                worker.give_place_back(place);
                return Err(failure);
            }
        };
        let expand = || worker.request_keys.borrow_mut().expand(place, config);
        let (place, expanded) = match self.config.crypto_engine {
            Implementation::Portable => with_wiped_stack::<PROGRAM_STACK, _>(expand),
            _ => with_wiped_stack::<EXPANSION_STACK, _>(expand),
        };
        worker.observe.borrow().count_request_key(expanded);
        Ok((InUse::Request(OwnKey { worker, place: Some(place), fingerprint }), broken))
    }

    /// Puts the raw key into its place. Returns its fingerprint, if a trace needs it, and the broken engine for it.
    fn fill(
        &self,
        worker: &Worker,
        place: &mut Place,
        description: &KeyDescription,
        payload: &Payload<'_>,
        fate: Option<&Fate>,
    ) -> Result<(u64, Option<Box<BrokenEngine>>), Failure> {
        if description.key_type == Some(KeyType::Raw) {
            if usize::try_from(description.key_size) != Ok(KEY_BYTES) {
                return Err(Failure::Malformed);
            }
            payload.read_key(place.raw_mut());
            check_guest_memory()?;
        } else {
            self.unwrap(worker, place, description, payload)?;
        }
        if halves_are_equal(place.raw()) {
            self.observer.count_equal_halves();
        }
        let fingerprint = match &self.fingerprints {
            Some(fingerprints) if worker.observe.borrow().traces() => {
                with_wiped_stack::<COMMAND_STACK, _>(|| fingerprints.of(place.raw()))
            }
            _ => 0,
        };
        let broken = if self.faults.armed() { self.broken_engine_of_request(fate, place)? } else { None };
        Ok((fingerprint, broken))
    }

    /// Unwraps a key into its place, unless it is cached.
    fn unwrap(
        &self,
        worker: &Worker,
        place: &mut Place,
        description: &KeyDescription,
        payload: &Payload<'_>,
    ) -> Result<(), Failure> {
        // Not a secret, unless the driver confuses the key types.
        let mut blob = Zeroizing::new([0; MAX_KEY_BYTES]);
        payload.read_key(&mut *blob);
        check_guest_memory()?;
        let blob = usize::try_from(description.key_size).ok().and_then(|size| blob.get(..size));
        let blob = blob.ok_or(Failure::Malformed)?;
        let now = Instant::now();
        if let Some(unwrapped) = &self.unwrapped
            && unwrapped.find(blob, now, place.raw_mut())
        {
            worker.observe.borrow().count_wrapped(true);
            return Ok(());
        }
        with_wiped_stack::<COMMAND_STACK, _>(|| {
            *place.raw_mut() = *self.wrapping()?.inline_key(blob)?;
            Ok::<_, Failure>(())
        })?;
        worker.observe.borrow().count_wrapped(false);
        if let Some(unwrapped) = &self.unwrapped
            && let Some(until) = unwrapped.keep(blob, now, place.raw())
        {
            worker.unwrapped_until(until);
        }
        Ok(())
    }

    /// A broken engine for a request with this key. Keeps what later ones need of the key.
    #[cold]
    fn broken_engine_of_request(
        &self,
        fate: Option<&Fate>,
        place: &Place,
    ) -> Result<Option<Box<BrokenEngine>>, Failure> {
        with_wiped_stack::<COMMAND_STACK, _>(|| {
            let kept = &self.faults.kept;
            if !kept.keeping() {
                return Ok(self.faults.engine(fate, NO_SLOT));
            }
            let generation = match kept.generation_of(NO_SLOT, place.raw()) {
                Some(generation) => generation,
                None => {
                    let generation = self.keyslots.next_generation();
                    kept.programmed(NO_SLOT, generation, self.config.crypto_engine, place.raw())?;
                    generation
                }
            };
            // Another worker may have served another key since.
            Ok(self.faults.engine(fate, NO_SLOT).map(|broken| broken.with_generation(generation)))
        })
    }
}
