// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Superblock, chunks and trees.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

use super::sums::Algorithm;

/// Offset of the superblock.
pub const SUPERBLOCK: u64 = 64 << 10;
const SUPERBLOCK_SIZE: usize = 4096;
const MAGIC: &[u8] = b"_BHRfS_M";
const SYSTEM_CHUNKS: usize = 811;

const CHUNK_ITEM: u8 = 228;
const ROOT_ITEM: u8 = 132;
/// Profiles that spread data over stripes.
const STRIPED: u64 = 0x08 | 0x40 | 0x80 | 0x100;

const HEADER: usize = 101;
const ITEM: usize = 25;
const POINTER: usize = 33;
const KEY: usize = 17;
const DEEPEST: u8 = 7;

/// The key of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Such as an inode number.
    pub object: u64,
    /// What it is.
    pub kind: u8,
    /// Such as an offset in a file.
    pub offset: u64,
}

/// Little-endian numbers from bytes, which may be too short.
#[derive(Clone, Copy)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// Part of it.
    pub fn slice(self, at: usize, length: usize) -> Result<&'a [u8]> {
        at.checked_add(length).and_then(|end| self.0.get(at..end)).context("an item is too short")
    }

    fn array<const N: usize>(self, at: usize) -> Result<[u8; N]> {
        Ok(self.slice(at, N)?.try_into()?)
    }

    /// A byte.
    pub fn u8(self, at: usize) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array(at)?))
    }

    /// Two bytes.
    pub fn u16(self, at: usize) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(at)?))
    }

    /// Four bytes.
    pub fn u32(self, at: usize) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(at)?))
    }

    /// Eight bytes.
    pub fn u64(self, at: usize) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(at)?))
    }

    fn key(self, at: usize) -> Result<Key> {
        Ok(Key { object: self.u64(at)?, kind: self.u8(at + 8)?, offset: self.u64(at + 9)? })
    }
}

/// A run of logical addresses.
struct Chunk {
    length: u64,
    kind: u64,
    /// Device and offset in it.
    stripes: Vec<(u64, u64)>,
}

impl Chunk {
    fn parse(item: Bytes) -> Result<Self> {
        let count = usize::from(item.u16(44)?);
        let stripes = (0..count).map(|n| Ok((item.u64(48 + 32 * n)?, item.u64(56 + 32 * n)?)));
        Ok(Self { length: item.u64(0)?, kind: item.u64(24)?, stripes: stripes.collect::<Result<_>>()? })
    }

    fn size(item: Bytes) -> Result<usize> {
        Ok(48 + 32 * usize::from(item.u16(44)?))
    }
}

/// A file system on an image.
pub struct Btrfs<'a> {
    image: &'a File,
    base: u64,
    /// Bytes of a sector. Each sector has a checksum.
    pub sector: u64,
    /// The checksums' algorithm.
    pub algorithm: Algorithm,
    node: usize,
    device: u64,
    chunks: BTreeMap<u64, Chunk>,
    /// Address and level of each tree's root.
    roots: BTreeMap<u64, (u64, u8)>,
    nodes: Cell<u64>,
}

impl<'a> Btrfs<'a> {
    /// Reads the superblock, the chunk tree and the root tree.
    pub fn open(image: &'a File, base: u64) -> Result<Self> {
        let mut bytes = vec![0; SUPERBLOCK_SIZE];
        image.read_exact_at(&mut bytes, base + SUPERBLOCK).context("the superblock")?;
        let block = Bytes(&bytes);
        ensure!(block.slice(64, 8)? == MAGIC, "no btrfs begins at {base}");
        let algorithm = Algorithm::of(block.u16(196)?)?;
        ensure!(algorithm.fits(&bytes), "the superblock's checksum is wrong");
        ensure!(block.u64(96)? == 0, "there is a log tree: the file system was not unmounted");
        let mut fs = Self {
            image,
            base,
            sector: u64::from(block.u32(144)?),
            algorithm,
            node: usize::try_from(block.u32(148)?)?,
            device: block.u64(201)?,
            chunks: BTreeMap::new(),
            roots: BTreeMap::new(),
            nodes: Cell::new(0),
        };
        ensure!(fs.sector.is_power_of_two() && (512..=65536).contains(&fs.sector), "sectors of {} bytes", fs.sector);
        ensure!(fs.node.is_power_of_two() && (4096..=65536).contains(&fs.node), "nodes of {} bytes", fs.node);
        let system = Bytes(block.slice(SYSTEM_CHUNKS, usize::try_from(block.u32(160)?)?)?);
        let mut at = 0;
        while at < system.0.len() {
            let item = Bytes(system.0.get(at + KEY..).context("a system chunk is too short")?);
            fs.chunks.insert(system.key(at)?.offset, Chunk::parse(item)?);
            at += KEY + Chunk::size(item)?;
        }
        let mut chunks = vec![];
        fs.walk((block.u64(88)?, block.u8(199)?), &mut |key, item| {
            if key.kind == CHUNK_ITEM {
                chunks.push((key.offset, Chunk::parse(item)?));
            }
            Ok(())
        })
        .context("the chunk tree")?;
        fs.chunks.extend(chunks);
        let mut roots = vec![];
        fs.walk((block.u64(80)?, block.u8(198)?), &mut |key, item| {
            if key.kind == ROOT_ITEM {
                roots.push((key.object, (item.u64(176)?, item.u8(238)?)));
            }
            Ok(())
        })
        .context("the root tree")?;
        fs.roots.extend(roots);
        Ok(fs)
    }

    /// Nodes, each copy counted, that were read and whose checksum is right.
    pub fn nodes(&self) -> u64 {
        self.nodes.get()
    }

    /// Calls `visit` for each item of a tree, in the order of their keys.
    pub fn tree(&self, id: u64, visit: &mut dyn FnMut(Key, Bytes) -> Result<()>) -> Result<()> {
        let root = self.roots.get(&id).with_context(|| format!("there is no tree {id}"))?;
        self.walk(*root, visit).with_context(|| format!("tree {id}"))
    }

    /// Offsets of bytes on this image, one for each copy.
    pub fn places(&self, logical: u64, length: u64) -> Result<Vec<u64>> {
        let (start, chunk) = self.chunks.range(..=logical).next_back().context("an address in no chunk")?;
        let within = logical - start;
        ensure!(
            within.checked_add(length).is_some_and(|end| end <= chunk.length),
            "{length} bytes at {logical} are in no chunk"
        );
        if chunk.kind & STRIPED != 0 && chunk.stripes.len() > 1 {
            bail!("the chunk at {start} is spread over stripes (type {:#x}), which is not supported", chunk.kind);
        }
        let here = chunk.stripes.iter().filter(|(device, _)| *device == self.device);
        let places = here.map(|(_, offset)| self.base.checked_add(*offset)?.checked_add(within));
        let places: Option<Vec<u64>> = places.collect();
        let places = places.context("an address beyond any disk's end")?;
        ensure!(!places.is_empty(), "the chunk at {start} has no copy on this device, {}", self.device);
        Ok(places)
    }

    /// Bytes of the image.
    pub fn read(&self, place: u64, length: u64) -> Result<Vec<u8>> {
        ensure!(length <= 1 << 30, "{length} bytes at once");
        let mut bytes = vec![0; usize::try_from(length)?];
        self.image.read_exact_at(&mut bytes, place).with_context(|| format!("{length} bytes at {place}"))?;
        Ok(bytes)
    }

    fn walk(&self, root: (u64, u8), visit: &mut dyn FnMut(Key, Bytes) -> Result<()>) -> Result<()> {
        self.walk_below(root, &mut HashSet::new(), visit)
    }

    fn walk_below(
        &self,
        (at, level): (u64, u8),
        seen: &mut HashSet<u64>,
        visit: &mut dyn FnMut(Key, Bytes) -> Result<()>,
    ) -> Result<()> {
        ensure!(level <= DEEPEST, "a tree of {level} levels");
        // Without this, a few nodes could make a walk of ages.
        ensure!(seen.insert(at), "the tree has the node at {at} twice");
        let bytes = self.node(at)?;
        let node = Bytes(&bytes);
        ensure!(node.u64(48)? == at && node.u8(100)? == level, "the node at {at} is another one");
        let count = usize::try_from(node.u32(96)?)?;
        ensure!(count <= self.node / ITEM, "the node at {at} has {count} items");
        for n in 0..count {
            if level == 0 {
                let item = HEADER + ITEM * n;
                let offset = usize::try_from(node.u32(item + KEY)?)?;
                let size = usize::try_from(node.u32(item + KEY + 4)?)?;
                visit(node.key(item)?, Bytes(node.slice(HEADER.saturating_add(offset), size)?))?;
            } else {
                self.walk_below((node.u64(HEADER + POINTER * n + KEY)?, level - 1), seen, visit)?;
            }
        }
        Ok(())
    }

    /// A node; all of its copies must be right.
    fn node(&self, at: u64) -> Result<Vec<u8>> {
        let mut first = None;
        for place in self.places(at, self.node as u64)? {
            let bytes = self.read(place, self.node as u64)?;
            ensure!(self.algorithm.fits(&bytes), "the checksum of the node at {at} (image offset {place}) is wrong");
            self.nodes.set(self.nodes.get() + 1);
            first.get_or_insert(bytes);
        }
        first.context("no copy")
    }
}
