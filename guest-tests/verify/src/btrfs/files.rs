// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inodes, their extents and their encryption contexts.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::disk::{Btrfs, Bytes};

const INODE_ITEM: u8 = 1;
const INODE_CONTEXT: u8 = 41;
const EXTENT_CONTEXT: u8 = 42;
const EXTENT_DATA: u8 = 108;

const NODATASUM: u64 = 1;
const INLINE: u8 = 0;
const PREALLOCATED: u8 = 2;

/// An inode.
#[derive(Default)]
pub struct Inode {
    /// Length in bytes.
    pub size: u64,
    flags: u64,
    /// fscrypt's context: policy and nonce.
    pub context: Option<Vec<u8>>,
    /// By their offset in the file.
    pub extents: BTreeMap<u64, Extent>,
    /// fscrypt's contexts of extents, by the same offset.
    pub extent_contexts: BTreeMap<u64, Vec<u8>>,
}

impl Inode {
    /// Whether its data has checksums.
    pub fn has_checksums(&self) -> bool {
        self.flags & NODATASUM == 0
    }
}

/// The data of a part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Bytes in the tree itself.
    Inline(Vec<u8>),
    /// Zeros: a hole, or allocated and not written.
    Nothing,
    /// Bytes at this logical address.
    At(u64),
}

/// A part of a file.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Its data.
    pub data: Data,
    /// Length in the file.
    pub length: u64,
    /// Its offset in the extent as it was written. Other parts of that extent may be in use elsewhere, or free.
    pub within: u64,
    /// btrfs' number for the kind of compression; 0: none.
    pub compression: u8,
    /// btrfs' number for the kind of encryption; 0: none, 1: fscrypt.
    pub encryption: u8,
}

impl Extent {
    fn parse(item: Bytes) -> Result<Self> {
        let kind = item.u8(20)?;
        let mut extent = Self {
            data: Data::Nothing,
            length: item.u64(8)?,
            within: 0,
            compression: item.u8(16)?,
            encryption: item.u8(17)?,
        };
        if kind == INLINE {
            extent.data = Data::Inline(item.slice(21, item.0.len().saturating_sub(21))?.to_vec());
            return Ok(extent);
        }
        ensure!(kind <= PREALLOCATED, "an extent of type {kind}");
        (extent.within, extent.length) = (item.u64(37)?, item.u64(45)?);
        let start = item.u64(21)?;
        if kind != PREALLOCATED && start != 0 {
            extent.data = Data::At(start.saturating_add(extent.within));
        }
        Ok(extent)
    }
}

/// All inodes of a tree.
pub struct Inodes(BTreeMap<u64, Inode>);

impl Inodes {
    /// Reads them.
    pub fn read(fs: &Btrfs, tree: u64) -> Result<Self> {
        let mut all: BTreeMap<u64, Inode> = BTreeMap::new();
        fs.tree(tree, &mut |key, item| {
            if ![INODE_ITEM, INODE_CONTEXT, EXTENT_CONTEXT, EXTENT_DATA].contains(&key.kind) {
                return Ok(());
            }
            let inode = all.entry(key.object).or_default();
            match key.kind {
                INODE_ITEM => (inode.size, inode.flags) = (item.u64(16)?, item.u64(64)?),
                INODE_CONTEXT => inode.context = Some(item.0.to_vec()),
                EXTENT_CONTEXT => drop(inode.extent_contexts.insert(key.offset, item.0.to_vec())),
                _ => drop(inode.extents.insert(key.offset, Extent::parse(item)?)),
            }
            Ok(())
        })?;
        Ok(Self(all))
    }

    /// One of them.
    pub fn get(&self, number: u64) -> Option<&Inode> {
        self.0.get(&number)
    }
}
