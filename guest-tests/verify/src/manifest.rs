// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's description of the disk: `manifest.jsonl`, one JSON object per line.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::hex::Bytes16;

/// One line of the manifest.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    /// A file encrypted by fscrypt.
    Fscrypt(FscryptFile),
    /// The names in a directory encrypted by fscrypt.
    Names(FscryptDirectory),
    /// An area of the disk encrypted with a known XTS key, such as a dm-crypt volume.
    Xts(XtsArea),
    /// An area of the disk that holds plaintext.
    Plain(PlainArea),
    /// A file in btrfs, which is found on the image itself.
    Btrfs(BtrfsFile),
}

/// A file in btrfs.
#[derive(Debug, Deserialize)]
pub struct BtrfsFile {
    /// The file's path in the guest.
    pub path: String,
    /// Its plaintext copy, relative to the `plain` directory of the results.
    pub plain: String,
    /// The subvolume's tree.
    pub root: u64,
    /// Inode number.
    pub ino: u64,
    /// Where the file system begins on the disk.
    pub offset: u64,
    /// Whether it must be encrypted.
    pub encrypted: bool,
    /// How many extents it must have at least.
    #[serde(default)]
    pub extents: usize,
}

/// A file encrypted by fscrypt, as the guest's `fscrypt-map` describes it.
#[derive(Debug, Deserialize)]
pub struct FscryptFile {
    /// The file's path in the guest.
    pub path: String,
    /// Its plaintext copy, relative to the `plain` directory of the results.
    pub plain: String,
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Where the file system begins on the disk.
    pub offset: u64,
    /// The file system's block size.
    pub block_size: u64,
    /// The file system's UUID.
    pub fs_uuid: Bytes16,
    /// The file's encryption policy.
    pub policy: Policy,
    /// The file's nonce.
    pub nonce: Bytes16,
    /// Where its data lies.
    pub extents: Vec<Extent>,
}

/// A directory encrypted by fscrypt, as the guest's `fscrypt-map --names` describes it.
#[derive(Debug, Deserialize)]
pub struct FscryptDirectory {
    /// The directory's path in the guest.
    pub path: String,
    /// Inode number.
    pub ino: u64,
    /// Where the file system begins on the disk.
    pub offset: u64,
    /// The file system's block size.
    pub block_size: u64,
    /// The file system's UUID.
    pub fs_uuid: Bytes16,
    /// The directory's encryption policy.
    pub policy: Policy,
    /// The directory's nonce.
    pub nonce: Bytes16,
    /// Where its entries lie.
    pub extents: Vec<Extent>,
    /// Everything in it, except itself and its parent.
    pub names: Vec<Name>,
}

/// A name in a directory.
#[derive(Debug, Deserialize)]
pub struct Name {
    /// The name in plaintext.
    pub name: String,
    /// Inode number that it refers to.
    pub ino: u64,
}

/// An fscrypt policy.
#[derive(Debug, Deserialize)]
pub struct Policy {
    /// 2; anything else is refused.
    pub version: u8,
    /// Encryption mode of the contents.
    pub contents_mode: u8,
    /// Encryption mode of names.
    pub filenames_mode: u8,
    /// Key-derivation flags and file name padding.
    pub flags: u8,
    /// Size of a data unit, 0 for the file system's block size.
    pub log2_data_unit_size: u8,
    /// Which master key.
    pub key_identifier: Bytes16,
}

/// A piece of a file in consecutive bytes on the file system's device.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Extent {
    /// Offset in the file.
    pub logical: u64,
    /// Offset in the file system's device.
    pub physical: u64,
    /// Length in bytes.
    pub length: u64,
    /// `FIEMAP_EXTENT_*`.
    pub flags: u32,
}

/// An area of the disk whose data units are numbered consecutively.
#[derive(Debug, Deserialize)]
pub struct XtsArea {
    /// What to call it.
    pub path: String,
    /// Its plaintext, relative to the `plain` directory of the results.
    pub plain: String,
    /// Where it begins on the disk.
    pub offset: u64,
    /// The 64-byte XTS key in hexadecimal, or `hw-wrapped:` and the 32 bytes that were imported into the hardware.
    pub key: String,
    /// Size of a data unit.
    pub data_unit_size: u64,
    /// Number of the first data unit.
    #[serde(default)]
    pub first_dun: u64,
}

/// An area of the disk that is not encrypted.
#[derive(Debug, Deserialize)]
pub struct PlainArea {
    /// What to call it.
    pub path: String,
    /// Its contents, relative to the `plain` directory of the results.
    pub plain: String,
    /// Where it begins on the disk.
    pub offset: u64,
}

/// Reads a manifest; an empty one is an error, because nothing would be verified.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let entries = parse(&text).with_context(|| format!("{}", path.display()))?;
    ensure!(!entries.is_empty(), "nothing verified: {} is empty", path.display());
    Ok(entries)
}

fn parse(text: &str) -> Result<Vec<Entry>> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| serde_json::from_str(line).with_context(|| format!("line {}", i + 1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_own_words() {
        let line = concat!(
            r#"{"kind":"fscrypt","path":"/mnt/d/f","ino":14,"size":5000,"offset":0,"block_size":4096,"#,
            r#""plain":"d/f","fs_uuid":"000102030405060708090a0b0c0d0e0f","#,
            r#""policy":{"version":2,"contents_mode":1,"filenames_mode":4,"flags":3,"log2_data_unit_size":0,"#,
            r#""key_identifier":"00112233445566778899aabbccddeeff"},"nonce":"ffeeddccbbaa99887766554433221100","#,
            r#""extents":[{"logical":0,"physical":4194304,"length":8192,"flags":1}]}"#
        );
        let entries = parse(&format!("{line}\n\n{line}\n")).expect("manifest");
        assert_eq!(entries.len(), 2);
        let Entry::Fscrypt(file) = &entries[0] else { panic!("kind") };
        assert_eq!(file.extents[0].physical, 4_194_304);
        assert_eq!(file.policy.key_identifier.0[15], 0xff);
    }

    #[test]
    fn a_directory() {
        let line = concat!(
            r#"{"kind":"names","path":"/mnt/d","ino":13,"size":4096,"offset":0,"block_size":4096,"#,
            r#""fs_uuid":"000102030405060708090a0b0c0d0e0f","#,
            r#""policy":{"version":2,"contents_mode":1,"filenames_mode":4,"flags":3,"log2_data_unit_size":0,"#,
            r#""key_identifier":"00112233445566778899aabbccddeeff"},"nonce":"ffeeddccbbaa99887766554433221100","#,
            r#""extents":[{"logical":0,"physical":4194304,"length":4096,"flags":1}],"#,
            r#""names":[{"name":"a \"file\"","ino":14}]}"#
        );
        let entries = parse(line).expect("manifest");
        let Entry::Names(directory) = &entries[0] else { panic!("kind") };
        assert_eq!((directory.names[0].name.as_str(), directory.names[0].ino), ("a \"file\"", 14));
        assert_eq!(directory.policy.filenames_mode, 4);
    }

    #[test]
    fn cut_lines_and_unknown_kinds_are_errors() {
        assert!(parse(r#"{"kind":"fscrypt","path":"/mnt/d/f","#).is_err());
        assert!(parse(r#"{"kind":"other","path":"x","plain":"x","offset":0}"#).is_err());
        assert!(parse(r#"{"path":"x","plain":"x","offset":0}"#).is_err());
    }
}
