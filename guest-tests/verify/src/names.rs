// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Checks the names in an encrypted directory: encrypted, they must be those in the directory's blocks of ext4.
//!
//! A name is padded with zeros to a multiple of what the policy says and encrypted with AES-256-CBC-CTS (variant CS3).
//! A directory's blocks are lists of entries. The blocks of its hash tree can be parsed as such, too.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;

use crate::fscrypt::{FileIdentity, MODE_AES_256_CTS, MasterKey, Method};
use crate::hex;
use crate::manifest::FscryptDirectory;
use crate::plan;

/// A name has at least one block of the cipher, and at most the maximum of an entry.
const SHORTEST: usize = 16;
const LONGEST: usize = 255;
const CIPHER_BLOCK: usize = 16;

/// Names on the image by inode number; a file may have several names.
type Names = BTreeMap<u64, Vec<Vec<u8>>>;

/// The result for one directory.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Names compared.
    pub names: u64,
    /// What is wrong, in words.
    pub wrong: Vec<String>,
}

/// Compares the entries of a directory on the image with its encrypted names.
pub fn check(image: &File, directory: &FscryptDirectory, keys: &[MasterKey]) -> Result<Outcome> {
    check_directory(image, directory, keys).with_context(|| format!("{} (inode {})", directory.path, directory.ino))
}

fn check_directory(image: &File, directory: &FscryptDirectory, keys: &[MasterKey]) -> Result<Outcome> {
    let policy = &directory.policy;
    ensure!(policy.filenames_mode == MODE_AES_256_CTS, "names mode {} is not AES-256-CBC-CTS", policy.filenames_mode);
    let method = Method::from_flags(policy.flags)?;
    let master = plan::master_key(policy, keys)?;
    let identity = FileIdentity { method, nonce: directory.nonce.0, ino: directory.ino, fs_uuid: directory.fs_uuid.0 };
    let key = master.names_key(&identity)?;
    let iv = master.numbering(&identity)?.dun(0)?.to_le_bytes();
    let padding = 4 << (policy.flags & 3);

    let mut found = read_entries(image, directory)?;
    let mut outcome = Outcome::default();
    for name in &directory.names {
        let ciphertext = encrypt(&key, &iv, padding, name.name.as_bytes())?;
        outcome.names += 1;
        let candidates = found.entry(name.ino).or_default();
        if let Some(at) = candidates.iter().position(|c| *c == ciphertext) {
            candidates.remove(at);
            continue;
        }
        let instead: Vec<String> = candidates
            .iter()
            .map(|c| if c == name.name.as_bytes() { "the name in plaintext".into() } else { hex::encode(c) })
            .collect();
        outcome.wrong.push(format!(
            "{}: the name \"{}\" must be {}, found for its inode {}: {}",
            directory.path,
            name.name,
            hex::encode(&ciphertext),
            name.ino,
            if instead.is_empty() { "nothing".into() } else { instead.join(", ") }
        ));
        candidates.pop();
    }
    for (ino, rest) in found {
        for name in rest {
            outcome.wrong.push(format!(
                "{}: {} (inode {ino}) is the encryption of none of its names",
                directory.path,
                hex::encode(&name)
            ));
        }
    }
    Ok(outcome)
}

/// All entries of a directory, except itself and its parent.
fn read_entries(image: &File, directory: &FscryptDirectory) -> Result<Names> {
    let mut names = Names::new();
    let block_size = usize::try_from(directory.block_size)?;
    ensure!(block_size.is_power_of_two() && (1024..=65536).contains(&block_size), "blocks of {block_size} bytes");
    for extent in &directory.extents {
        plan::check_extent(extent, directory.block_size)?;
        let place = directory.offset.checked_add(extent.physical).context("an extent beyond any disk's end")?;
        let mut block = vec![0; block_size];
        for at in (0..extent.length).step_by(block_size) {
            image.read_exact_at(&mut block, place + at)?;
            parse_block(&block, &mut names).with_context(|| format!("image offset {}", place + at))?;
        }
    }
    Ok(names)
}

/// Entries are `le32 inode, le16 length, u8 length of the name, u8 type, name`; inode 0 means that there is none.
fn parse_block(block: &[u8], names: &mut Names) -> Result<()> {
    let mut rest = block;
    while !rest.is_empty() {
        let [i0, i1, i2, i3, l0, l1, name_length, _, ..] = *rest else { bail!("a directory entry is cut off") };
        let ino = u32::from_le_bytes([i0, i1, i2, i3]);
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        let name_end = 8 + usize::from(name_length);
        ensure!(
            length >= 8 && length.is_multiple_of(4) && length <= rest.len() && (ino == 0 || name_end <= length),
            "this is not a block of a directory"
        );
        if ino != 0 {
            let name = &rest[8..name_end];
            if name != b"." && name != b".." {
                names.entry(u64::from(ino)).or_default().push(name.to_vec());
            }
        }
        rest = &rest[length..];
    }
    Ok(())
}

fn encrypt(key: &[u8; 32], iv: &[u8; 16], padding: usize, name: &[u8]) -> Result<Vec<u8>> {
    ensure!((1..=LONGEST).contains(&name.len()), "a name of {} bytes", name.len());
    let mut padded = name.to_vec();
    padded.resize(name.len().max(SHORTEST).next_multiple_of(padding).min(LONGEST), 0);
    cbc_cts(Cipher::aes_256_cbc(), key, iv, &padded)
}

/// CBC with ciphertext stealing as in Kerberos (RFC 3962): the last two blocks change places, the last one is cut.
fn cbc_cts(cipher: &CipherRef, key: &[u8], iv: &[u8; 16], message: &[u8]) -> Result<Vec<u8>> {
    let mut padded = message.to_vec();
    padded.resize(message.len().next_multiple_of(CIPHER_BLOCK), 0);
    let mut ctx = CipherCtx::new()?;
    ctx.encrypt_init(Some(cipher), Some(key), Some(iv))?;
    ctx.set_padding(false);
    let mut output = Vec::new();
    ctx.cipher_update_vec(&padded, &mut output)?;
    if let Some(last_two) = output.len().checked_sub(2 * CIPHER_BLOCK) {
        output[last_two..].rotate_left(CIPHER_BLOCK);
    }
    output.truncate(message.len());
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3962, appendix B.
    #[test]
    fn cts_of_rfc_3962() {
        let text = b"I would like the General Gau's Chicken, please, and wonton soup.";
        for (length, expected) in [
            (17, "c6353568f2bf8cb4d8a580362da7ff7f97"),
            (31, "fc00783e0efdb2c1d445d4c8eff7ed2297687268d6ecccc0c07b25e25ecfe5"),
            (32, "39312523a78662d5be7fcbcc98ebf5a897687268d6ecccc0c07b25e25ecfe584"),
        ] {
            let output = cbc_cts(Cipher::aes_128_cbc(), b"chicken teriyaki", &[0; 16], &text[..length]).expect("CTS");
            assert_eq!(hex::encode(&output), expected);
        }
    }

    /// The name of a file in inode 12 of a file system with IV_INO_LBLK_64 and a hardware-wrapped key; made with Python's
    /// `cryptography`.
    #[test]
    fn a_padded_name() {
        let imported: [u8; 32] = std::array::from_fn(|i| i as u8);
        let master = MasterKey::from_hw_wrapped(&imported).expect("key");
        let fs_uuid = std::array::from_fn(|i| 0x30 + i as u8);
        let identity = FileIdentity { method: Method::InoLblk64, nonce: [0; 16], ino: 12, fs_uuid };
        let iv = master.numbering(&identity).expect("numbering").dun(0).expect("dun").to_le_bytes();
        let name =
            encrypt(&master.names_key(&identity).expect("key"), &iv, 32, b"a-name-of-thirty-seven-bytes-for-you!");
        assert_eq!(
            hex::encode(&name.expect("name")),
            concat!(
                "06f3b54663d19cae6d5cb6100e84e10f309a8d1bfe162955e95db551169b6503",
                "994e2218fc7d1f6584428099d15687f65c301bb92333afee040e08dafc0e5e98"
            )
        );
    }

    #[test]
    fn lengths() {
        let length = |padding, name: usize| encrypt(&[1; 32], &[0; 16], padding, &vec![b'x'; name]).map(|n| n.len());
        assert_eq!(length(4, 1).expect("name"), 16);
        assert_eq!(length(4, 17).expect("name"), 20);
        assert_eq!(length(32, 17).expect("name"), 32);
        assert_eq!(length(32, 250).expect("name"), 255);
        assert!(length(32, 0).is_err() && length(32, 256).is_err());
    }

    fn entry(ino: u32, length: u16, name: &[u8]) -> Vec<u8> {
        let mut entry = ino.to_le_bytes().to_vec();
        entry.extend(length.to_le_bytes());
        entry.extend([name.len() as u8, 1]);
        entry.extend(name);
        entry.resize(usize::from(length), 0xee);
        entry
    }

    #[test]
    fn blocks() {
        let mut names = Names::new();
        let block = [
            entry(2, 12, b"."),
            entry(2, 12, b".."),
            entry(11, 40, b"0123456789abcdef"),
            entry(0, 948, b"gone"),
            // Where ext4 keeps a checksum.
            entry(0, 12, b""),
        ];
        parse_block(&block.concat(), &mut names).expect("block");
        assert_eq!(names, Names::from([(11, vec![b"0123456789abcdef".to_vec()])]));
        for bad in [entry(11, 12, b"longer"), vec![0; 1024], entry(11, 16, b"x")[..12].to_vec(), vec![1; 4]] {
            assert!(parse_block(&bad, &mut names).is_err(), "{bad:?}");
        }
    }
}
