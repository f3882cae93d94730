// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests of one kind, a fixed number in flight.

use anyhow::{Context, Result, ensure};
use test_driver::data::Random;
use test_driver::wire::NO_SLOT;

use crate::clock::{Measured, Window};
use crate::frontend::Connection;
use crate::memory::Memory;
use crate::ring::{self, Ring};
use crate::tickets::{self, Crypto, Key};
use crate::{Args, Operation, Task, churn};

/// Where the next request goes.
pub struct Offsets {
    block: u64,
    blocks: u64,
    next: u64,
    random: Option<Random>,
}

impl Offsets {
    /// Over a disk of `capacity` bytes.
    pub fn new(capacity: u64, block: u32, operation: Operation) -> Result<Self> {
        let block = u64::from(block);
        ensure!(capacity >= block, "a disk of {capacity} bytes has no block of {block}");
        let random = (!operation.is_sequential()).then(|| Random::new(7));
        Ok(Self { block, blocks: capacity / block, next: 0, random })
    }

    /// The offset of the next request in bytes.
    pub fn next(&mut self) -> u64 {
        let block = match &mut self.random {
            // The high half of a product: evenly spread without a division.
            Some(random) => ((u128::from(random.next()) * u128::from(self.blocks)) >> 64) as u64,
            None => {
                let block = self.next;
                self.next = if block + 1 == self.blocks { 0 } else { block + 1 };
                block
            }
        };
        block * self.block
    }
}

/// Programs one keyslot and waits for it.
pub fn program(memory: &Memory, control: &mut Ring<'_>, crypto: Crypto, key: &Key, polling: bool) -> Result<()> {
    tickets::program(memory, control, 0, crypto, key)?;
    control.publish()?;
    ring::wait(&[control], polling)?;
    control.take(&mut Vec::new())?;
    tickets::check_command(memory, 0)
}

/// Runs the load: with one key for all requests, or with new keys in requests for [`Task::Churn`].
pub fn run(args: &Args, unit_bits: Option<u32>, memory: &Memory, connection: &mut Connection<'_>) -> Result<Measured> {
    let slot = if args.key_in_request { NO_SLOT } else { 0 };
    let crypto = unit_bits.map(|unit_bits| Crypto { slot, unit_bits });
    let new_keys = args.task == Task::Churn;
    let keys = if new_keys { churn::keys() } else { vec![Random::new(3).key()] };
    let mut next_key = keys.iter().cycle();
    if let Some(crypto) = crypto.filter(|crypto| !crypto.is_keyed()) {
        let control = connection.control.as_mut().context("no control queue")?;
        program(memory, control, crypto, next_key.next().context("no key")?, args.polling)?;
    }
    // A driver writes the key of each request, even if it is the same as before.
    let mut bring_key = |ticket| match next_key.next().filter(|_| args.key_in_request) {
        Some(key) => tickets::bring_key(memory, ticket, key),
        None => Ok(()),
    };
    let requests = &mut connection.requests;
    let mut offsets = Offsets::new(connection.capacity, args.block, args.operation)?;
    for ticket in 0..args.depth {
        tickets::describe(memory, requests, ticket, args.operation.is_write(), args.block, crypto)?;
        bring_key(ticket)?;
        tickets::submit(memory, requests, ticket, offsets.next(), crypto)?;
    }
    requests.publish()?;
    let mut window = Window::start(args.warmup, args.seconds, args.server_pid)?;
    let mut done = Vec::with_capacity(args.depth.into());
    loop {
        ring::wait(&[requests], args.polling)?;
        done.clear();
        requests.take(&mut done)?;
        for &ticket in &done {
            tickets::check(memory, ticket)?;
            bring_key(ticket)?;
            tickets::submit(memory, requests, ticket, offsets.next(), crypto)?;
        }
        let changed = if new_keys { done.len() as u64 } else { 0 };
        if let Some(measured) = window.count(done.len() as u64, changed, args.block)? {
            return Ok(measured);
        }
        requests.publish()?;
    }
}

/// Writes every block of the disk.
pub fn fill(args: &Args, memory: &Memory, connection: &mut Connection<'_>) -> Result<()> {
    let requests = &mut connection.requests;
    tickets::describe(memory, requests, 0, true, args.block, None)?;
    for block in 0..connection.capacity / u64::from(args.block) {
        tickets::submit(memory, requests, 0, block * u64::from(args.block), None)?;
        requests.publish()?;
        ring::wait(&[requests], args.polling)?;
        requests.take(&mut Vec::new())?;
        tickets::check(memory, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_stay_on_the_disk_and_sequential_ones_wrap() {
        let mut offsets = Offsets::new(3 * 4096 + 512, 4096, Operation::Read).expect("room");
        let order: Vec<u64> = (0..5).map(|_| offsets.next()).collect();
        assert_eq!(order, [0, 4096, 8192, 0, 4096]);
        let mut offsets = Offsets::new(3 * 4096 + 512, 4096, Operation::Randwrite).expect("room");
        let mut seen = [false; 3];
        for _ in 0..200 {
            let offset = offsets.next();
            assert!(offset.is_multiple_of(4096));
            seen[offset as usize / 4096] = true;
        }
        assert_eq!(seen, [true; 3]);
        assert!(Offsets::new(4095, 4096, Operation::Read).is_err());
    }
}
