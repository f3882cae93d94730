// SPDX-License-Identifier: Apache-2.0 OR MIT
//! btrfs, read from the image alone: where the extents of a file are, the nonce of each, and their checksums in the
//! csum tree.
//!
//! btrfs checksums the data on the disk. So for an encrypted file the csum tree must have the checksums of the
//! ciphertext, from the kernel or from the hardware, whichever encrypts.
//!
//! | module | content |
//! |---|---|
//! | [`disk`] | superblock, chunks, trees: from a logical address to bytes of the image |
//! | [`sums`] | the four algorithms, and the csum tree |
//! | [`files`] | inodes, extents, encryption contexts |
//! | [`plans`] | which bytes must be where, and which checksums a file must have |
//!
//! The encryption items are not in any kernel of kernel.org. Their layout is that of the series "btrfs: add fscrypt support" (v7,
//! May 2026): item 41 is an inode's context, item 42 an extent's.

pub mod disk;
pub mod files;
pub mod plans;
pub mod sums;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

use crate::fscrypt::MasterKey;
use crate::manifest::BtrfsFile;
use crate::plan::Plan;
use disk::Btrfs;
use files::Inodes;

/// What was checked, and what is wrong.
#[derive(Default)]
pub struct Outcome {
    /// The checksums' algorithm.
    pub algorithm: &'static str,
    /// Nodes of trees, each copy counted, whose checksum is right.
    pub nodes: u64,
    /// Entries of the csum tree, each copy of the data counted, that were compared with checksums made here.
    pub checksums: u64,
    /// Extents of the listed files that are encrypted.
    pub encrypted_extents: u64,
    /// Their nonces, and where on the disk the extent begins that has it.
    pub nonces: HashMap<[u8; 16], u64>,
    /// Listed files that have checksums.
    pub files_with_checksums: u64,
    /// Listed files that must have none (nodatasum).
    pub files_without_checksums: u64,
    /// What is wrong.
    pub wrong: Vec<String>,
    /// The expected contents of the listed files.
    pub plans: Vec<Plan>,
}

/// Checks a file system that begins at this offset of the image, and the listed files in it.
pub fn check(image: &File, base: u64, listed: &[&BtrfsFile], keys: &[MasterKey], plain_dir: &Path) -> Result<Outcome> {
    let fs = Btrfs::open(image, base)?;
    let mut outcome = Outcome { algorithm: fs.algorithm.name(), ..Outcome::default() };
    let sums = fs.sums()?;
    outcome.checksums = sums.compare(&fs, &mut outcome.wrong)?;
    let mut trees: BTreeMap<u64, Inodes> = BTreeMap::new();
    for file in listed {
        let inodes = match trees.entry(file.root) {
            std::collections::btree_map::Entry::Occupied(tree) => tree.into_mut(),
            std::collections::btree_map::Entry::Vacant(tree) => tree.insert(Inodes::read(&fs, file.root)?),
        };
        plans::add(&fs, inodes, &sums, file, keys, plain_dir, &mut outcome)
            .with_context(|| format!("{} (inode {} of tree {})", file.path, file.ino, file.root))?;
    }
    outcome.nodes = fs.nodes();
    Ok(outcome)
}
