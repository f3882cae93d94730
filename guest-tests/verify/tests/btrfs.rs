// SPDX-License-Identifier: Apache-2.0 OR MIT
//! btrfs on small images made here: right ones pass, and every kind of error is found. Guest cases have file systems
//! that mkfs.btrfs and the kernel made; encrypted ones no released kernel makes yet.

use std::fs;

use fscrypt_verify::btrfs::sums::Algorithm;
use fscrypt_verify::fscrypt::MasterKey;
use fscrypt_verify::hex;
use fscrypt_verify::report::Report;
use fscrypt_verify::xts::Xts;
use serde_json::{Value, json};
use tempfile::TempDir;

const SENTINEL: &str = "plaintext sentinel: 31 letters.";
const SECTOR: usize = 4096;
/// Logical addresses begin here; each byte has two copies, at 0 and at `COPY` of the image.
const LOGICAL: usize = 1 << 20;
const COPY: usize = 1 << 19;
const SUPERBLOCK: usize = 64 << 10;
const CHUNK_TREE: usize = 128 << 10;
const ROOT_TREE: usize = CHUNK_TREE + SECTOR;
const FS_TREE: usize = ROOT_TREE + SECTOR;
const CSUM_TREE: usize = FS_TREE + SECTOR;
const DATA: usize = 256 << 10;
const INO: u64 = 257;
const NODATASUM: u64 = 1;

type Item = ((u64, u8, u64), Vec<u8>);

/// Little-endian numbers one after the other, each of this many bytes.
fn bytes(fields: &[(u64, usize)]) -> Vec<u8> {
    fields.iter().flat_map(|(number, size)| number.to_le_bytes()[..*size].to_vec()).collect()
}

struct Fixture {
    algorithm: Algorithm,
    encrypted: bool,
    flags: u64,
    /// File offset, offset in the extent as it was written, sectors.
    extents: Vec<(usize, usize, usize)>,
    /// Whether the extents have contexts.
    contexts: bool,
    /// Whether all extents have the same nonce.
    one_nonce: bool,
    /// How many extents the file must have at least.
    least: usize,
    /// XORed to the data on the disk, after the checksums were made.
    flip: Option<usize>,
    /// XORed to the csum tree.
    wrong_sum: bool,
    plaintext: Vec<u8>,
    /// Another file in the results, which no entry names.
    unnamed: bool,
    plain_is_shared: bool,
}

impl Fixture {
    fn new(algorithm: Algorithm, encrypted: bool) -> Self {
        let mut plaintext: Vec<u8> = (0..5 * SECTOR - 100).map(|i| (((i * i) >> 5) ^ (i >> 9)) as u8).collect();
        for sector in plaintext.chunks_mut(512).filter(|s| s.len() == 512) {
            sector[..SENTINEL.len()].copy_from_slice(SENTINEL.as_bytes());
        }
        let extents = vec![(0, 0, 3), (3 * SECTOR, 2 * SECTOR, 2)];
        Self {
            algorithm,
            encrypted,
            flags: 0,
            extents,
            contexts: true,
            one_nonce: false,
            least: 0,
            flip: None,
            wrong_sum: false,
            plaintext,
            unnamed: false,
            plain_is_shared: false,
        }
    }

    /// A node of level 0, its checksum in front.
    fn leaf(&self, at: usize, items: &[Item]) -> Vec<u8> {
        let mut node = vec![0; SECTOR];
        node[48..56].copy_from_slice(&((LOGICAL + at) as u64).to_le_bytes());
        node[96..100].copy_from_slice(&(items.len() as u32).to_le_bytes());
        let mut end = SECTOR - 101;
        for (n, ((object, kind, offset), data)) in items.iter().enumerate() {
            end -= data.len();
            let item =
                bytes(&[(*object, 8), (u64::from(*kind), 1), (*offset, 8), (end as u64, 4), (data.len() as u64, 4)]);
            node[101 + 25 * n..][..25].copy_from_slice(&item);
            node[101 + end..][..data.len()].copy_from_slice(data);
        }
        self.seal(node)
    }

    fn seal(&self, mut block: Vec<u8>) -> Vec<u8> {
        let sum = self.algorithm.sum(&block[32..]);
        block[..sum.len()].copy_from_slice(&sum);
        block
    }

    fn verify(&self) -> anyhow::Result<Report> {
        let raw = [0x5a; 64];
        let master = MasterKey::from_raw(&raw)?;
        let mut padded = self.plaintext.clone();
        padded.resize(5 * SECTOR, 0);
        let mut image = vec![0; 2 * COPY];
        let mut put = |at: usize, data: &[u8]| {
            [0, COPY].iter().for_each(|copy| image[copy + at..][..data.len()].copy_from_slice(data))
        };

        let mut fs_items: Vec<Item> = vec![];
        let inode = bytes(&[(1, 8), (1, 8), (self.plaintext.len() as u64, 8)]);
        let mut inode = [inode, vec![0; 160 - 24]].concat();
        inode[64..72].copy_from_slice(&self.flags.to_le_bytes());
        fs_items.push(((INO, 1, 0), inode));
        if self.encrypted {
            let context = [vec![2, 1, 4, 3, 0, 0, 0, 0], master.identifier().to_vec(), vec![7; 16]].concat();
            fs_items.push(((INO, 41, 0), context));
        }
        let (mut contexts, mut parts, mut sums): (Vec<Item>, Vec<Item>, Vec<u8>) = Default::default();
        let mut at = DATA;
        for (n, (logical, within, sectors)) in self.extents.iter().enumerate() {
            let nonce = [if self.one_nonce { 1 } else { n as u8 + 1 }; 16];
            let mut data = padded[*logical..][..sectors * SECTOR].to_vec();
            if self.encrypted {
                let mut xts = Xts::new(&master.extent_key(&nonce)?)?;
                for (m, unit) in data.chunks_mut(SECTOR).enumerate() {
                    let sealed = xts.encrypt((within / SECTOR + m) as u128, unit)?;
                    unit.copy_from_slice(&sealed);
                }
                let context = [vec![1, 1], master.identifier().to_vec(), nonce.to_vec()].concat();
                contexts.push(((INO, 42, *logical as u64), context));
            }
            // The extent begins before the part that is in use.
            let start = (LOGICAL + at - within) as u64;
            let length = (sectors * SECTOR) as u64;
            let item = bytes(&[
                (1, 8),
                (length, 8),
                (0, 1),
                (u64::from(self.encrypted), 1),
                (0, 2),
                (1, 1),
                (start, 8),
                (length + *within as u64, 8),
                (*within as u64, 8),
                (length, 8),
            ]);
            parts.push(((INO, 108, *logical as u64), item));
            sums.extend(data.chunks(SECTOR).flat_map(|sector| self.algorithm.sum(sector)));
            put(at, &data);
            at += data.len();
        }
        if self.contexts {
            fs_items.extend(contexts);
        }
        fs_items.extend(parts);
        if self.wrong_sum {
            sums[0] ^= 1;
        }
        put(FS_TREE, &self.leaf(FS_TREE, &fs_items));
        let csums = if self.flags & NODATASUM == 0 {
            vec![((u64::MAX - 9, 128, (LOGICAL + DATA) as u64), sums)]
        } else {
            vec![]
        };
        put(CSUM_TREE, &self.leaf(CSUM_TREE, &csums));
        let root = |at: usize| [vec![0; 176], bytes(&[((LOGICAL + at) as u64, 8)]), vec![0; 255]].concat();
        put(ROOT_TREE, &self.leaf(ROOT_TREE, &[((5, 132, 0), root(FS_TREE)), ((7, 132, 0), root(CSUM_TREE))]));
        let stripe = |at: usize| [bytes(&[(1, 8), (at as u64, 8)]), vec![0; 16]].concat();
        let chunk = bytes(&[(COPY as u64, 8), (2, 8), (65536, 8), (0x27, 8), (0, 4), (0, 4), (0, 4), (2, 2), (0, 2)]);
        let chunk = [chunk, stripe(0), stripe(COPY)].concat();
        put(CHUNK_TREE, &self.leaf(CHUNK_TREE, &[((256, 228, LOGICAL as u64), chunk.clone())]));

        let mut block = vec![0; SECTOR];
        block[64..72].copy_from_slice(b"_BHRfS_M");
        block[80..96].copy_from_slice(&bytes(&[((LOGICAL + ROOT_TREE) as u64, 8), ((LOGICAL + CHUNK_TREE) as u64, 8)]));
        let system = [bytes(&[(256, 8), (228, 1), (LOGICAL as u64, 8)]), chunk].concat();
        block[144..152].copy_from_slice(&bytes(&[(SECTOR as u64, 4), (SECTOR as u64, 4)]));
        block[160..164].copy_from_slice(&(system.len() as u32).to_le_bytes());
        block[196..198].copy_from_slice(&(self.algorithm as u16).to_le_bytes());
        block[201..209].copy_from_slice(&1u64.to_le_bytes());
        block[811..811 + system.len()].copy_from_slice(&system);
        put(SUPERBLOCK, &self.seal(block));
        if let Some(at) = self.flip {
            image[at] ^= 1;
        }

        let dir = TempDir::new()?;
        fs::create_dir(dir.path().join("plain"))?;
        fs::write(dir.path().join("plain/file"), &self.plaintext)?;
        if self.unnamed {
            fs::write(dir.path().join("plain/other"), &self.plaintext)?;
        }
        fs::write(dir.path().join("keys"), format!("raw {}\n", hex::encode(&raw)))?;
        fs::write(dir.path().join("sentinel"), SENTINEL)?;
        let entry: Value = json!({"kind": "btrfs", "path": "/mnt/file", "plain": "file", "root": 5, "ino": INO, "offset": 0,
            "encrypted": self.encrypted, "extents": self.least});
        fs::write(dir.path().join("manifest.jsonl"), format!("{entry}\n"))?;
        fs::write(dir.path().join("image"), &image)?;
        fscrypt_verify::verify(&dir.path().join("image"), dir.path(), self.plain_is_shared)
    }

    /// Verified and found wrong; the words.
    fn wrong(&self) -> String {
        let report = self.verify().expect("a verification");
        assert!(!report.is_verified(), "{report}");
        report.to_string()
    }
}

const ALL: [Algorithm; 4] = [Algorithm::Crc32c, Algorithm::Xxhash64, Algorithm::Sha256, Algorithm::Blake2b];

#[test]
fn plain_and_encrypted_files_with_each_checksum() {
    for algorithm in ALL {
        for encrypted in [false, true] {
            for flags in [0, NODATASUM] {
                let report = Fixture { flags, ..Fixture::new(algorithm, encrypted) }.verify().expect("a verification");
                let fs = &report.btrfs[0];
                assert!(fs.wrong.is_empty() && report.mismatches.is_empty() && report.hits.is_empty(), "{report}");
                // Two copies of five sectors.
                assert_eq!(fs.checksums, if flags == 0 { 10 } else { 0 });
                assert_eq!(report.data_units, if encrypted { 10 } else { 0 });
                assert_eq!((fs.encrypted_extents, fs.nonces.len()), if encrypted { (2, 2) } else { (0, 0) });
                assert_eq!(report.is_verified(), encrypted || flags == 0);
            }
        }
    }
}

#[test]
fn a_wrong_checksum_in_the_csum_tree_is_caught() {
    for algorithm in ALL {
        let words = Fixture { wrong_sum: true, ..Fixture::new(algorithm, true) }.wrong();
        assert!(words.contains("but the csum tree has"), "{words}");
    }
}

#[test]
fn a_bit_that_is_wrong_in_either_copy_is_caught() {
    for at in [DATA + 5, COPY + DATA + 4 * SECTOR] {
        for encrypted in [false, true] {
            let words = Fixture { flip: Some(at), ..Fixture::new(Algorithm::Crc32c, encrypted) }.wrong();
            assert!(words.contains("but the csum tree has") && words.contains("is wrong from byte"), "{words}");
        }
    }
    let node = Fixture { flip: Some(COPY + FS_TREE + 200), ..Fixture::new(Algorithm::Sha256, true) };
    assert!(format!("{:#}", node.verify().err().expect("an error")).contains("the checksum of the node"));
}

#[test]
fn what_is_not_encrypted_as_it_should_be_is_caught() {
    let without = Fixture { contexts: false, ..Fixture::new(Algorithm::Crc32c, true) }.wrong();
    assert!(without.contains("the extent at 0 has no encryption context"), "{without}");
    // The front of the second extent is free: its data units are numbered from the start that it had.
    let mut moved = Fixture::new(Algorithm::Crc32c, true);
    moved.extents = vec![(0, 0, 5)];
    assert!(moved.verify().expect("a verification").is_verified());
    let mut gap = Fixture::new(Algorithm::Crc32c, true);
    gap.extents.pop();
    assert!(gap.wrong().contains("hold data but have no place on the disk"));
    let again = Fixture { one_nonce: true, ..Fixture::new(Algorithm::Crc32c, true) }.wrong();
    assert!(again.contains("has the nonce of another extent"), "{again}");
}

#[test]
fn a_file_with_too_few_extents_is_caught() {
    let fixture = |least| Fixture { least, ..Fixture::new(Algorithm::Crc32c, true) };
    assert!(fixture(2).verify().expect("a verification").is_verified());
    assert!(fixture(3).wrong().contains("it has 2 extents, and should have at least 3"));
}

#[test]
fn a_plaintext_without_an_entry_is_one_of_another_image_or_forgotten() {
    let forgotten = Fixture { unnamed: true, ..Fixture::new(Algorithm::Crc32c, true) };
    let words = format!("{:#}", forgotten.verify().err().expect("an error"));
    assert!(words.contains("no entry of the manifest names the plaintext"), "{words}");
    let shared = Fixture { plain_is_shared: true, ..forgotten };
    assert!(shared.verify().expect("a verification").is_verified());
}
