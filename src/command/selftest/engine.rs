// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The engine: each implementation against a published vector, and a keyslot.

use anyhow::{Context, Result, ensure};
use scattered_xts::{Dun, Implementation, KEY_BYTES, XtsKey};
use vhost_user_blk_crypto::keyslot::{Evicted, KeyConfig, KeyslotTable};

use super::{Check, Finding};

/// IEEE Std 1619-2007, annex B, vector 10: a data unit of 512 bytes. Key, tweak, plaintext, ciphertext in hexadecimal.
const VECTOR: &str = include_str!("ieee-1619-vector-10.txt");
const UNIT_BITS: u8 = 9;
const UNIT_BYTES: usize = 1 << UNIT_BITS;

struct Vector {
    key: [u8; KEY_BYTES],
    dun: Dun,
    plaintext: [u8; UNIT_BYTES],
    ciphertext: [u8; UNIT_BYTES],
}

pub fn checks() -> Vec<Check> {
    let implementations = Implementation::available().map(|implementation| {
        let finding = match against_vector(implementation) {
            Ok(()) => Finding::Good("encrypts and decrypts as IEEE 1619 says".into()),
            Err(error) => Finding::Bad(format!("{error:#}; please report this, and use another --crypto-engine")),
        };
        (format!("AES-256-XTS by {implementation}"), finding)
    });
    let keyslot = match keyslot() {
        Ok(()) => Finding::Good("takes a key, encrypts, is evicted and empty".into()),
        Err(error) => Finding::Bad(format!("{error:#}")),
    };
    implementations.chain([("a keyslot".into(), keyslot)]).collect()
}

fn vector() -> Result<Vector> {
    let mut fields = VECTOR.split_whitespace();
    let mut tweak = [0; 16];
    let (mut key, mut plaintext, mut ciphertext) = ([0; KEY_BYTES], [0; UNIT_BYTES], [0; UNIT_BYTES]);
    for field in [&mut key[..], &mut tweak, &mut plaintext, &mut ciphertext] {
        let digits = fields.next().context("the vector lacks a field")?;
        ensure!(digits.len() == 2 * field.len(), "a field of the vector has another length");
        for (byte, digits) in field.iter_mut().zip(digits.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits)?, 16)?;
        }
    }
    let tweak = u128::from_le_bytes(tweak);
    Ok(Vector { key, dun: Dun::new([tweak as u64, (tweak >> 64) as u64, 0, 0]), plaintext, ciphertext })
}

fn against_vector(implementation: Implementation) -> Result<()> {
    let vector = vector()?;
    let key = XtsKey::new(implementation, &vector.key);
    let mut data = vector.plaintext;
    key.encrypt_in_place(vector.dun, UNIT_BITS, &mut data);
    ensure!(data == vector.ciphertext, "the ciphertext is wrong");
    key.decrypt_in_place(vector.dun, UNIT_BITS, &mut data);
    ensure!(data == vector.plaintext, "the plaintext is wrong");
    Ok(())
}

fn keyslot() -> Result<()> {
    let vector = vector()?;
    let table = KeyslotTable::new(1, Implementation::detect())
        .context("its memory cannot be locked; raise the limit (ulimit -l, LimitMEMLOCK=)")?;
    pollster::block_on(async {
        let mut claim = table.claim(0).await?;
        claim.publish(table.next_generation(), &vector.key, KeyConfig { data_unit_bits: UNIT_BITS, dun_bytes: 8 });
        ensure!(claim.drained().await == Evicted::Nothing, "it was not empty");
        let mut data = vector.plaintext;
        table
            .acquire(0)?
            .context("it is empty after programming")?
            .key()
            .xts
            .encrypt_in_place(vector.dun, UNIT_BITS, &mut data);
        ensure!(data == vector.ciphertext, "the ciphertext is wrong");
        ensure!(table.evict(0).await? == Evicted::Key, "it was empty");
        ensure!(table.acquire(0)?.is_none(), "it is not empty after the key was evicted");
        Ok(())
    })
}
