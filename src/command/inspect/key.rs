// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reads a key from a file into locked memory only.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use scattered_xts::{Dun, Implementation, KEY_BYTES, XtsKey};
use vhost_user_blk_crypto::secret::{COMMAND_STACK, SecretBox, with_wiped_stack};

/// An expanded key in locked memory.
pub struct Key(SecretBox<Option<XtsKey>>);

impl Key {
    pub fn encrypt(&self, dun: Dun, unit_bits: u8, data: &mut [u8]) {
        if let Some(xts) = &*self.0 {
            xts.encrypt_in_place(dun, unit_bits, data);
        }
    }

    pub fn decrypt(&self, dun: Dun, unit_bits: u8, data: &mut [u8]) {
        if let Some(xts) = &*self.0 {
            xts.decrypt_in_place(dun, unit_bits, data);
        }
    }
}

/// Reads 64 bytes, or 128 hexadecimal digits and optional white space.
pub fn read(path: &Path) -> Result<Key> {
    const ROOM: usize = 4 * KEY_BYTES;
    let memory = || "cannot lock memory for the key; raise the limit (ulimit -l)";
    let mut bytes = SecretBox::new([0u8; ROOM]).with_context(memory)?;
    let mut file = File::open(path).with_context(|| format!("cannot open the key file {}", path.display()))?;
    let mut len = 0;
    while len < ROOM {
        match file.read(&mut bytes[len..]).with_context(|| format!("cannot read {}", path.display()))? {
            0 => break,
            count => len += count,
        }
    }
    let mut key = SecretBox::new([0u8; KEY_BYTES]).with_context(memory)?;
    let text = bytes[..len].trim_ascii_end();
    if len == KEY_BYTES {
        key.copy_from_slice(&bytes[..KEY_BYTES]);
    } else if text.len() == 2 * KEY_BYTES {
        for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
    } else {
        bail!(
            "{} is not a key file: a key has 64 bytes, or 128 hexadecimal digits, and this file has {len} bytes or more",
            path.display()
        );
    }
    let mut expanded = SecretBox::new(None).with_context(memory)?;
    with_wiped_stack::<COMMAND_STACK, _>(|| *expanded = Some(XtsKey::new(Implementation::detect(), &key)));
    Ok(Key(expanded))
}

fn digit(digit: u8) -> Result<u8> {
    // The message does not show the digit, which is part of a key.
    let value = char::from(digit).to_digit(16).context("the key file has a character that is no hexadecimal digit")?;
    Ok(value as u8) // below 16
}
