// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks the device before anything is timed: writes data, reads it back and compares. Compares the ciphertext on the
//! disk with OpenSSL's.

use anyhow::{Context, Result, ensure};
use test_driver::data::{Random, openssl_xts};
use test_driver::wire::NO_SLOT;

use crate::Args;
use crate::frontend::Connection;
use crate::load::{self, Offsets};
use crate::memory::Memory;
use crate::ring;
use crate::tickets::{self, Crypto, Key};

/// Requests that are checked.
const REQUESTS: usize = 64;

struct Checker<'a, 'm> {
    memory: &'m Memory,
    connection: &'a mut Connection<'m>,
    block: u32,
    polling: bool,
    key: Key,
}

impl Checker<'_, '_> {
    fn request(&mut self, write: bool, offset: u64, crypto: Option<Crypto>) -> Result<()> {
        let ring = &mut self.connection.requests;
        tickets::describe(self.memory, ring, 0, write, self.block, crypto)?;
        if crypto.is_some_and(Crypto::is_keyed) {
            tickets::bring_key(self.memory, 0, &self.key)?;
        }
        tickets::submit(self.memory, ring, 0, offset, crypto)?;
        ring.publish()?;
        ring::wait(&[ring], self.polling)?;
        ring.take(&mut Vec::new())?;
        tickets::check(self.memory, 0)
    }

    fn write(&mut self, offset: u64, data: &[u8], crypto: Option<Crypto>) -> Result<()> {
        self.memory.write(self.memory.data(0), data)?;
        self.request(true, offset, crypto)
    }

    fn read(&mut self, offset: u64, crypto: Option<Crypto>) -> Result<Vec<u8>> {
        let mut data = vec![0; self.block as usize];
        // Bytes that a read does not write must differ from the expected data.
        self.memory.write(self.memory.data(0), &data)?;
        self.request(false, offset, crypto)?;
        self.memory.read(self.memory.data(0), &mut data)?;
        Ok(data)
    }
}

/// Checks a few requests at offsets of the load.
pub fn run<'m>(args: &Args, unit_bits: Option<u32>, memory: &'m Memory, connection: &mut Connection<'m>) -> Result<()> {
    let mut random = Random::new(11);
    let key = random.key();
    let slot = if args.key_in_request { NO_SLOT } else { 1 };
    let crypto = unit_bits.map(|unit_bits| Crypto { slot, unit_bits });
    if let Some(crypto) = crypto.filter(|crypto| !crypto.is_keyed()) {
        let control = connection.control.as_mut().context("no control queue")?;
        load::program(memory, control, crypto, &key, args.polling)?;
    }
    let mut offsets = Offsets::new(connection.capacity, args.block, args.operation)?;
    let mut checker = Checker { memory, connection, block: args.block, polling: args.polling, key };
    for _ in 0..REQUESTS {
        let offset = offsets.next();
        let data: Vec<u8> = (0..args.block / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        checker.write(offset, &data, crypto)?;
        ensure!(checker.read(offset, crypto)? == data, "what was written at {offset} is not what is read there");
        if let Some(crypto) = crypto {
            let expected = openssl_xts(&key, (offset >> crypto.unit_bits).into(), 1 << crypto.unit_bits, &data);
            ensure!(checker.read(offset, None)? == expected, "the ciphertext at {offset} is not OpenSSL's");
        }
    }
    println!("{{\"verified\":{REQUESTS}}}");
    Ok(())
}
