// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Many keys on few keyslots, as in a guest with a key for each file or extent.

use anyhow::{Context, Result, ensure};
use test_driver::data::Random;

use crate::Args;
use crate::clock::{Measured, Window};
use crate::frontend::Connection;
use crate::load::{self, Offsets};
use crate::memory::Memory;
use crate::ring;
use crate::tickets::{self, Crypto, Key};

/// Keys in turn.
const KEYS: usize = 10_000;
/// Keyslots that they share.
const SLOTS: u16 = 32;

/// The keys.
pub fn keys() -> Vec<Key> {
    let mut random = Random::new(5);
    (0..KEYS).map(|_| random.key()).collect()
}

/// A key for each request: program it, wait for that, one request, and so on, independently on `--depth` keyslots.
/// At depth 1 the keyslots are taken in turn.
pub fn each(args: &Args, unit_bits: Option<u32>, memory: &Memory, connection: &mut Connection<'_>) -> Result<Measured> {
    let unit_bits = unit_bits.context("--task churn needs --unit")?;
    ensure!(args.depth <= SLOTS, "--depth is at most {SLOTS} here: each request in flight has a keyslot of its own");
    let (requests, control) = (&mut connection.requests, connection.control.as_mut().context("no control queue")?);
    let mut offsets = Offsets::new(connection.capacity, args.block, args.operation)?;
    let keys = keys();
    let mut next_key = keys.iter().cycle();
    // Ticket t has the keyslots t, t + depth, ... in turn.
    let mut slots: Vec<u16> = (0..args.depth).collect();
    let mut window = Window::start(args.warmup, args.seconds, args.server_pid)?;
    let (mut programmed, mut done) = (Vec::new(), (0..args.depth).collect::<Vec<_>>());
    let mut first = true;
    loop {
        for &ticket in &done {
            let slot = slots.get_mut(usize::from(ticket)).context("an unknown ticket")?;
            if !first {
                tickets::check(memory, ticket)?;
                *slot = if *slot + args.depth < SLOTS { *slot + args.depth } else { ticket };
            }
            let crypto = Crypto { slot: (*slot).into(), unit_bits };
            tickets::describe(memory, requests, ticket, args.operation.is_write(), args.block, Some(crypto))?;
            tickets::program(memory, control, ticket, crypto, next_key.next().context("no key")?)?;
        }
        first = false;
        control.publish()?;
        for &ticket in &programmed {
            tickets::check_command(memory, ticket)?;
            let slot = *slots.get(usize::from(ticket)).context("an unknown ticket")?;
            tickets::submit(memory, requests, ticket, offsets.next(), Some(Crypto { slot: slot.into(), unit_bits }))?;
        }
        requests.publish()?;
        ring::wait(&[requests, control], args.polling)?;
        done.clear();
        requests.take(&mut done)?;
        programmed.clear();
        control.take(&mut programmed)?;
        if let Some(measured) = window.count(done.len() as u64, programmed.len() as u64, args.block)? {
            return Ok(measured);
        }
    }
}

/// Requests with one key while the control queue programs the other keyslots, one command after the other.
pub fn beside(
    args: &Args,
    unit_bits: Option<u32>,
    memory: &Memory,
    connection: &mut Connection<'_>,
) -> Result<Measured> {
    let unit_bits = unit_bits.context("--task churn-beside needs --unit")?;
    let crypto = Crypto { slot: 0, unit_bits };
    let (requests, control) = (&mut connection.requests, connection.control.as_mut().context("no control queue")?);
    let keys = keys();
    let mut next_key = keys.iter().cycle();
    let mut slot = (1..u32::from(SLOTS)).cycle();
    load::program(memory, control, crypto, &Random::new(3).key(), args.polling)?;
    let mut offsets = Offsets::new(connection.capacity, args.block, args.operation)?;
    for ticket in 0..args.depth {
        tickets::describe(memory, requests, ticket, args.operation.is_write(), args.block, Some(crypto))?;
        tickets::submit(memory, requests, ticket, offsets.next(), Some(crypto))?;
    }
    requests.publish()?;
    let mut window = Window::start(args.warmup, args.seconds, args.server_pid)?;
    let (mut programmed, mut done) = (vec![0], Vec::new());
    loop {
        if !programmed.is_empty() {
            let crypto = Crypto { slot: slot.next().context("no keyslot")?, unit_bits };
            tickets::program(memory, control, 0, crypto, next_key.next().context("no key")?)?;
            control.publish()?;
        }
        ring::wait(&[requests, control], args.polling)?;
        done.clear();
        requests.take(&mut done)?;
        programmed.clear();
        control.take(&mut programmed)?;
        for &ticket in &programmed {
            tickets::check_command(memory, ticket)?;
        }
        for &ticket in &done {
            tickets::check(memory, ticket)?;
            tickets::submit(memory, requests, ticket, offsets.next(), Some(crypto))?;
        }
        requests.publish()?;
        if let Some(measured) = window.count(done.len() as u64, programmed.len() as u64, args.block)? {
            return Ok(measured);
        }
    }
}
