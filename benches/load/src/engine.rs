// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The device's crypto engine on memory of this process: the upper limit for the device.

use std::hint::black_box;

use anyhow::{Context, Result};
use scattered_xts::{Dun, Implementation, XtsKey};
use test_driver::data::Random;

use crate::Args;
use crate::clock::{Measured, Window};

/// Encrypts or decrypts `--block` bytes again and again.
pub fn run(args: &Args, unit_bits: u32) -> Result<Measured> {
    let key = XtsKey::new(Implementation::detect(), &Random::new(3).key());
    let unit_bits = u8::try_from(unit_bits).context("--unit")?;
    let mut data = vec![0x5a; args.block as usize];
    let mut window = Window::start(args.warmup, args.seconds, None)?;
    loop {
        let dun = Dun::new([7, 0, 0, 0]);
        if args.operation.is_write() {
            key.encrypt_in_place(dun, unit_bits, black_box(&mut data));
        } else {
            key.decrypt_in_place(dun, unit_bits, black_box(&mut data));
        }
        if let Some(measured) = window.count(1, 0, args.block)? {
            return Ok(measured);
        }
    }
}
