// SPDX-License-Identifier: Apache-2.0 OR MIT
//! fscrypt's definition of keys and data unit numbers, for v2 policies with AES-256-XTS contents.
//!
//! Every key is `HKDF-SHA512(master key, no salt, "fscrypt\0" || context || info)`. Which context and info, and how a
//! data unit is numbered, depends on the policy:
//!
//! | policy | context | info | data unit number |
//! |---|---|---|---|
//! | per-file keys | 2 | the file's nonce | index in the file |
//! | IV_INO_LBLK_64 | 4 | mode, file system UUID | index, inode number in the bits from 32 up |
//! | IV_INO_LBLK_32 | 6 | mode, file system UUID | (SipHash-2-4(inode number) + index) mod 2^32 |
//!
//! btrfs has a key for each extent in place of each file: context 9, and the extent's nonce.
//!
//! The SipHash key has context 7 and no info; the identifier under which a policy names its master key, context 1.
//! The names in a directory are encrypted with a key made in the same way, with their own mode, and with the number that
//! the directory's first data unit would have.
//!
//! With a hardware-wrapped master key, the derivation uses the software secret instead of the master key. Two things
//! differ: the identifier has context 8, and the key for contents is the inline-encryption key from the hardware. That
//! is the same key for all files, which only the policies with inode numbers in their data unit numbers allow.

use anyhow::{Context, Result, bail, ensure};
use openssl::md::Md;
use openssl::pkey::Id;
use openssl::pkey_ctx::PkeyCtx;
use siphasher::sip::SipHasher24;

use crate::hw_kdf;

/// `FSCRYPT_MODE_AES_256_XTS`.
pub const MODE_AES_256_XTS: u8 = 1;
/// `FSCRYPT_MODE_AES_256_CTS`.
pub const MODE_AES_256_CTS: u8 = 4;
/// `FSCRYPT_POLICY_FLAG_DIRECT_KEY`.
pub const FLAG_DIRECT_KEY: u8 = 0x04;
/// `FSCRYPT_POLICY_FLAG_IV_INO_LBLK_64`.
pub const FLAG_IV_INO_LBLK_64: u8 = 0x08;
/// `FSCRYPT_POLICY_FLAG_IV_INO_LBLK_32`.
pub const FLAG_IV_INO_LBLK_32: u8 = 0x10;

const CONTEXT_KEY_IDENTIFIER: u8 = 1;
const CONTEXT_PER_FILE_KEY: u8 = 2;
const CONTEXT_IV_INO_LBLK_64_KEY: u8 = 4;
const CONTEXT_IV_INO_LBLK_32_KEY: u8 = 6;
const CONTEXT_INODE_HASH_KEY: u8 = 7;
const CONTEXT_KEY_IDENTIFIER_HW_WRAPPED: u8 = 8;
const CONTEXT_PER_EXTENT_KEY: u8 = 9;

/// How a policy makes keys and numbers data units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Every file has a key of its own.
    PerFileKey,
    /// One key per mode and file system; inode number and index side by side.
    InoLblk64,
    /// One key per mode and file system; hashed inode number plus index, in 32 bits.
    InoLblk32,
}

impl Method {
    /// The method that a policy's flags name.
    pub fn from_flags(flags: u8) -> Result<Self> {
        match flags & (FLAG_DIRECT_KEY | FLAG_IV_INO_LBLK_64 | FLAG_IV_INO_LBLK_32) {
            0 => Ok(Self::PerFileKey),
            FLAG_IV_INO_LBLK_64 => Ok(Self::InoLblk64),
            FLAG_IV_INO_LBLK_32 => Ok(Self::InoLblk32),
            _ => bail!("policy flags {flags:#x} name no method that goes with AES-256-XTS"),
        }
    }

    /// The method's name in fscrypt's documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerFileKey => "per-file keys",
            Self::InoLblk64 => "IV_INO_LBLK_64",
            Self::InoLblk32 => "IV_INO_LBLK_32",
        }
    }
}

/// What distinguishes one file from another in fscrypt's definition.
#[derive(Clone, Copy, Debug)]
pub struct FileIdentity {
    /// How the file's policy makes keys and numbers.
    pub method: Method,
    /// The file's nonce.
    pub nonce: [u8; 16],
    /// The inode number.
    pub ino: u64,
    /// The file system's UUID.
    pub fs_uuid: [u8; 16],
}

/// How the data units of one file are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// The index of the data unit, counted on from a first number.
    From(u64),
    /// Inode number in the upper, index in the lower 32 bits.
    Ino(u32),
    /// The index counted on from a hash, wrapping at 32 bits.
    Wrapping32(u32),
}

impl Numbering {
    /// The number of the data unit with this index in its file.
    pub fn dun(self, index: u64) -> Result<u128> {
        match self {
            Self::From(first) => Ok(u128::from(first) + u128::from(index)),
            Self::Ino(ino) => {
                let index = u32::try_from(index).context("the file is too long for 32-bit data unit indices")?;
                Ok((u128::from(ino) << 32) | u128::from(index))
            }
            Self::Wrapping32(hash) => {
                let index = u32::try_from(index).context("the file is too long for 32-bit data unit indices")?;
                Ok(u128::from(hash.wrapping_add(index)))
            }
        }
    }
}

/// A master key as it was added to the kernel.
pub struct MasterKey {
    /// The input of fscrypt's own derivation.
    secret: Vec<u8>,
    /// The contents key of a hardware-wrapped key.
    inline_key: Option<Box<[u8; 64]>>,
    identifier: [u8; 16],
}

impl MasterKey {
    /// A raw (not hardware-wrapped) master key.
    pub fn from_raw(raw: &[u8]) -> Result<Self> {
        ensure!((32..=64).contains(&raw.len()), "a raw master key has 32 to 64 bytes, this one {}", raw.len());
        let mut identifier = [0; 16];
        hkdf_sha512(raw, &info(CONTEXT_KEY_IDENTIFIER, &[]), &mut identifier)?;
        Ok(Self { secret: raw.to_vec(), inline_key: None, identifier })
    }

    /// A hardware-wrapped master key, given the bytes that were imported into the hardware.
    pub fn from_hw_wrapped(imported: &[u8]) -> Result<Self> {
        let secret = hw_kdf::software_secret(imported)?;
        let mut identifier = [0; 16];
        hkdf_sha512(&secret, &info(CONTEXT_KEY_IDENTIFIER_HW_WRAPPED, &[]), &mut identifier)?;
        let inline_key = Some(Box::new(hw_kdf::inline_encryption_key(imported)?));
        Ok(Self { secret: secret.to_vec(), inline_key, identifier })
    }

    /// What policies call this key.
    pub fn identifier(&self) -> [u8; 16] {
        self.identifier
    }

    /// The key that encrypts a file's contents.
    pub fn contents_key(&self, file: &FileIdentity) -> Result<[u8; 64]> {
        match &self.inline_key {
            Some(_) if file.method == Method::PerFileKey => {
                bail!("a hardware-wrapped key cannot be used for per-file keys")
            }
            Some(key) => Ok(**key),
            None => self.derived_key(file, MODE_AES_256_XTS),
        }
    }

    /// The key that encrypts an extent of btrfs: made from the extent's nonce. Data units are numbered from the extent's start.
    pub fn extent_key(&self, nonce: &[u8; 16]) -> Result<[u8; 64]> {
        ensure!(self.inline_key.is_none(), "a hardware-wrapped key cannot be used for per-extent keys");
        let mut key = [0; 64];
        hkdf_sha512(&self.secret, &info(CONTEXT_PER_EXTENT_KEY, nonce), &mut key)?;
        Ok(key)
    }

    /// The key that encrypts the names in a directory. It exists for hardware-wrapped keys, too: software encrypts
    /// names.
    pub fn names_key(&self, directory: &FileIdentity) -> Result<[u8; 32]> {
        self.derived_key(directory, MODE_AES_256_CTS)
    }

    fn derived_key<const N: usize>(&self, file: &FileIdentity, mode: u8) -> Result<[u8; N]> {
        let mode_and_uuid = || {
            let mut info = vec![mode];
            info.extend_from_slice(&file.fs_uuid);
            info
        };
        let info = match file.method {
            Method::PerFileKey => info(CONTEXT_PER_FILE_KEY, &file.nonce),
            Method::InoLblk64 => info(CONTEXT_IV_INO_LBLK_64_KEY, &mode_and_uuid()),
            Method::InoLblk32 => info(CONTEXT_IV_INO_LBLK_32_KEY, &mode_and_uuid()),
        };
        let mut key = [0; N];
        hkdf_sha512(&self.secret, &info, &mut key)?;
        Ok(key)
    }

    /// How a file's data units are numbered.
    pub fn numbering(&self, file: &FileIdentity) -> Result<Numbering> {
        Ok(match file.method {
            Method::PerFileKey => Numbering::From(0),
            Method::InoLblk64 => {
                Numbering::Ino(u32::try_from(file.ino).context("the inode number has more than 32 bits")?)
            }
            Method::InoLblk32 => {
                let mut key = [0; 16];
                hkdf_sha512(&self.secret, &info(CONTEXT_INODE_HASH_KEY, &[]), &mut key)?;
                Numbering::Wrapping32(hash_ino(&key, file.ino))
            }
        })
    }
}

/// fscrypt's application-specific info string.
fn info(context: u8, rest: &[u8]) -> Vec<u8> {
    let mut info = b"fscrypt\0".to_vec();
    info.push(context);
    info.extend_from_slice(rest);
    info
}

/// The lower half of SipHash-2-4 over the inode number as eight little-endian bytes.
fn hash_ino(key: &[u8; 16], ino: u64) -> u32 {
    let hash = SipHasher24::new_with_key(key).hash(&ino.to_le_bytes());
    // fscrypt uses the lower half.
    hash as u32
}

/// HKDF-SHA512 (RFC 5869) without salt.
fn hkdf_sha512(key: &[u8], info: &[u8], output: &mut [u8]) -> Result<()> {
    let mut ctx = PkeyCtx::new_id(Id::HKDF)?;
    ctx.derive_init()?;
    ctx.set_hkdf_md(Md::sha512())?;
    ctx.set_hkdf_key(key)?;
    ctx.add_hkdf_info(info)?;
    let written = ctx.derive(Some(output))?;
    ensure!(written == output.len(), "HKDF gave {written} bytes");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;

    fn file(method: Method) -> FileIdentity {
        FileIdentity {
            method,
            nonce: std::array::from_fn(|i| 0xa0 + i as u8),
            ino: 12,
            fs_uuid: std::array::from_fn(|i| 0x30 + i as u8),
        }
    }

    fn master() -> MasterKey {
        let raw: [u8; 64] = std::array::from_fn(|i| i as u8);
        MasterKey::from_raw(&raw).expect("master key")
    }

    /// The input of RFC 5869 test case 3 (no salt, no info) with SHA-512, as published for several libraries.
    #[test]
    fn hkdf_sha512_without_salt_and_info() {
        let mut okm = [0; 42];
        hkdf_sha512(&[0x0b; 22], &[], &mut okm).expect("HKDF");
        assert_eq!(
            hex::encode(&okm),
            "f5fa02b18298a72a8c23898a8703472c6eb179dc204c03425c970e3b164bf90fff22d04836d0e2343bac"
        );
    }

    /// SipHash-2-4 reference vectors (J.-P. Aumasson, D. J. Bernstein): key 00..0f, input 00..07.
    #[test]
    fn siphash_of_eight_bytes() {
        let key = std::array::from_fn(|i| i as u8);
        let ino = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(SipHasher24::new_with_key(&key).hash(&ino.to_le_bytes()), 0x93f5_f579_9a93_2462);
        assert_eq!(hash_ino(&key, ino), 0x9a93_2462);
    }

    /// The expected values of the next four were made with Python's `cryptography`.
    #[test]
    fn key_identifier() {
        assert_eq!(hex::encode(&master().identifier()), "8699c2c53707405da5aba5ae4d8583c0");
    }

    #[test]
    fn per_file_key() {
        let key = master().contents_key(&file(Method::PerFileKey)).expect("key");
        assert_eq!(
            hex::encode(&key),
            concat!(
                "bd5252baa3698125929bab1ef11f6f7ec773084fd47cc5d7fd5a07d422da343c",
                "73a5f95f05137c1585fe6bfd588dff7de3e1173fe2e4b1f987819eca1a9ec7a1"
            )
        );
    }

    #[test]
    fn iv_ino_lblk_64_key() {
        let key = master().contents_key(&file(Method::InoLblk64)).expect("key");
        assert_eq!(
            hex::encode(&key),
            concat!(
                "19e4b97f9194d13e0538a5a9021fefa537b5a8f056de38db3ad782109e6dcc92",
                "3546f46b7f5554063667c40c8210df72272f0b83616b85468a0cb799f7cea648"
            )
        );
    }

    #[test]
    fn iv_ino_lblk_32_key() {
        let key = master().contents_key(&file(Method::InoLblk32)).expect("key");
        assert_eq!(
            hex::encode(&key),
            concat!(
                "a8972652eb204b099c2424ad173935ec49271ef665b80ecbcb3885be469eed26",
                "04b97911dd13a0c6c43b85b854cdff5c0f4acf8dfeaf3a3a87bd7a9759fbd7e4"
            )
        );
    }

    /// The expected values of all tests with hardware-wrapped keys and names were made with Python's `cryptography`.
    #[test]
    fn hw_wrapped_key() {
        let imported: [u8; 32] = std::array::from_fn(|i| i as u8);
        let master = MasterKey::from_hw_wrapped(&imported).expect("master key");
        assert_eq!(hex::encode(&master.identifier()), "a2c6bd9aa8682ec04bc51ac412b9acea");
        let inline_key = hw_kdf::inline_encryption_key(&imported).expect("key");
        for method in [Method::InoLblk64, Method::InoLblk32] {
            assert_eq!(master.contents_key(&file(method)).expect("key"), inline_key);
        }
        assert!(master.contents_key(&file(Method::PerFileKey)).is_err());
        let names_key = |method| hex::encode(&master.names_key(&file(method)).expect("key"));
        assert_eq!(names_key(Method::InoLblk64), "f3bc8d0d67f502f5260071f4c6da3db9c9dd50aa722d3fbf7862de22d0e7367a");
        assert_eq!(names_key(Method::InoLblk32), "35c2cbac946bcaf29ec63d9ad69232353b8054e97a57ed1042a6fad5f2007dc9");
        let Numbering::Wrapping32(hash) = master.numbering(&file(Method::InoLblk32)).expect("numbering") else {
            panic!("not wrapping")
        };
        let mut hash_key = [0; 16];
        hash_key.copy_from_slice(&hex::decode("df2ea41300693985171709bf184a7181").expect("hex"));
        assert_eq!(hash, hash_ino(&hash_key, 12));
    }

    #[test]
    fn names_keys_of_a_raw_key() {
        let names_key = |method| hex::encode(&master().names_key(&file(method)).expect("key"));
        // HKDF's output is cut, and the mode is no part of the info: half of the contents key.
        assert_eq!(names_key(Method::PerFileKey), "bd5252baa3698125929bab1ef11f6f7ec773084fd47cc5d7fd5a07d422da343c");
        assert_eq!(names_key(Method::InoLblk64), "11ed491cb5b446550d7c2b88b458ee4cd7a9f05feec01226d4bf15bad79564ba");
    }

    #[test]
    fn numbering() {
        let numbering = |method| master().numbering(&file(method)).expect("numbering");
        assert_eq!(numbering(Method::PerFileKey).dun(5).expect("dun"), 5);
        assert_eq!(numbering(Method::InoLblk64).dun(5).expect("dun"), (12 << 32) | 5);
        assert!(numbering(Method::InoLblk64).dun(1 << 32).is_err());
        let Numbering::Wrapping32(hash) = numbering(Method::InoLblk32) else { panic!("not wrapping") };
        let mut hash_key = [0; 16];
        hash_key.copy_from_slice(&hex::decode("670f76f85d2f3cb8a67e0bba366c1014").expect("hex"));
        assert_eq!(hash, hash_ino(&hash_key, 12));
        assert_eq!(Numbering::Wrapping32(u32::MAX).dun(1).expect("dun"), 0);
    }

    /// What the guest case of numbers that wrap relies on: they do, in the middle of its file, with the key that it makes from a name.
    #[test]
    fn numbers_wrap_in_the_file_of_the_case() {
        let case = include_str!("../../cases/35-ciphertext-dun-wraps.sh");
        assert!(case.contains("key=wrap-4604 inode=121\n"));
        let key: [u8; 64] = openssl::sha::sha512(b"vhost-user-blk-crypto test key wrap-4604");
        let master = MasterKey::from_raw(&key).expect("master key");
        let file = FileIdentity { ino: 121, ..file(Method::InoLblk32) };
        let Numbering::Wrapping32(first) = master.numbering(&file).expect("numbering") else { panic!("not wrapping") };
        assert_eq!(first.wrapping_neg(), 1284);
    }

    #[test]
    fn methods() {
        assert_eq!(Method::from_flags(0x03).expect("flags"), Method::PerFileKey);
        assert!(Method::from_flags(FLAG_DIRECT_KEY).is_err());
        assert!(Method::from_flags(FLAG_IV_INO_LBLK_64 | FLAG_IV_INO_LBLK_32).is_err());
    }
}
