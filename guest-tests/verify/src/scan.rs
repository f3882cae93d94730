// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The search for plaintext anywhere on an image.
//!
//! A cipher works on blocks of 16 bytes, so one that was left out shows 16 bytes of plaintext, at a multiple of 16. Plaintext that
//! went around the cipher, in metadata for example, may begin anywhere, but a sentinel is long enough to fill such a block.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};

/// A block of the cipher.
const BLOCK: usize = 16;
/// A sentinel of this length fills a block wherever it lies.
pub const SHORTEST_SENTINEL: usize = 2 * BLOCK - 1;

/// Where pieces of a sentinel were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The sentinel.
    pub sentinel: String,
    /// Offset of the first piece on the image.
    pub first: u64,
    /// The number of pieces, of 16 bytes each.
    pub count: u64,
}

/// The sentinels of a results file: one per line.
pub fn parse_sentinels(text: &str) -> Result<Vec<String>> {
    let sentinels: Vec<String> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    ensure!(
        !sentinels.is_empty(),
        "no sentinel is named: the search for plaintext would find nothing whatever the image holds"
    );
    for sentinel in &sentinels {
        ensure!(
            sentinel.len() >= SHORTEST_SENTINEL,
            "the sentinel \"{sentinel}\" is so short that it may not fill a block of {BLOCK} bytes; make it \
             {SHORTEST_SENTINEL} bytes long"
        );
    }
    Ok(sentinels)
}

impl Display for Hit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { sentinel, first, count } = self;
        write!(
            f,
            "plaintext on the image: {count} blocks of 16 bytes are out of \"{sentinel}\", the first at offset {first}"
        )
    }
}

/// Searches the blocks of the whole image for pieces of every sentinel.
pub fn scan(image: &File, size: u64, sentinels: &[String]) -> Result<Vec<Hit>> {
    scan_in_chunks(image, size, sentinels, 1 << 20)
}

/// `chunk` is a multiple of a block.
fn scan_in_chunks(image: &File, size: u64, sentinels: &[String], chunk: usize) -> Result<Vec<Hit>> {
    // Where a sentinel begins decides which bytes of it fill a block.
    let pieces = |sentinel: usize| sentinels[sentinel].as_bytes().windows(BLOCK).map(move |piece| (piece, sentinel));
    let pieces: HashMap<&[u8], usize> = (0..sentinels.len()).flat_map(pieces).collect();
    // Most blocks are told apart by their first byte, which is faster than a hash.
    let mut begins = [false; 256];
    for piece in pieces.keys() {
        begins[usize::from(piece[0])] = true;
    }
    let mut hits: Vec<Option<Hit>> = vec![None; sentinels.len()];
    let mut buffer = vec![0; chunk];
    let mut start = 0;
    while start < size {
        let length = usize::try_from((size - start).min(chunk as u64))?;
        image.read_exact_at(&mut buffer[..length], start)?;
        for (i, block) in buffer[..length].chunks_exact(BLOCK).enumerate() {
            if begins[usize::from(block[0])]
                && let Some(&sentinel) = pieces.get(block)
            {
                let first = start + (i * BLOCK) as u64;
                hits[sentinel]
                    .get_or_insert_with(|| Hit { sentinel: sentinels[sentinel].clone(), first, count: 0 })
                    .count += 1;
            }
        }
        start += chunk as u64;
    }
    Ok(hits.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENTINEL: &str = "abcdefghijklmnopqrstuvwxyz012345";

    fn image(size: usize, pieces: &[(usize, &str)]) -> File {
        let mut data = vec![0x5a; size];
        for (at, piece) in pieces {
            data[*at..*at + piece.len()].copy_from_slice(piece.as_bytes());
        }
        let file = tempfile::tempfile().expect("temporary file");
        file.write_all_at(&data, 0).expect("write");
        file
    }

    fn found(size: usize, pieces: &[(usize, &str)]) -> Vec<(u64, u64)> {
        let hits = scan_in_chunks(&image(size, pieces), size as u64, &[SENTINEL.into()], 64).expect("scan");
        hits.iter().map(|hit| (hit.first, hit.count)).collect()
    }

    /// The scan finds a sentinel wherever it begins, chunk borders and the last bytes included.
    #[test]
    fn a_sentinel_is_found_at_every_position() {
        for at in 0..=256 - SENTINEL.len() {
            let blocks = if at % BLOCK == 0 { 2 } else { 1 };
            assert_eq!(found(256, &[(at, SENTINEL)]), [(at.next_multiple_of(BLOCK) as u64, blocks)], "at {at}");
        }
    }

    /// One block that was not encrypted, whichever part of the sentinel it holds.
    #[test]
    fn one_block_of_plaintext_is_found() {
        for phase in 0..=SENTINEL.len() - BLOCK {
            let piece = &SENTINEL[phase..phase + BLOCK];
            for at in (0..256).step_by(BLOCK) {
                assert_eq!(found(256, &[(at, piece)]), [(at as u64, 1)], "phase {phase} at {at}");
            }
            assert!(found(256, &[(64, &piece[1..])]).is_empty(), "15 bytes could be chance");
        }
    }

    #[test]
    fn all_pieces_are_counted() {
        let sentinels = ["a sentinel that is not on the image", SENTINEL].map(str::to_owned);
        let file = image(3 << 20, &[(0, SENTINEL), ((1 << 20) - 16, SENTINEL), (2 << 20, &SENTINEL[5..21])]);
        let hits = scan(&file, 3 << 20, &sentinels).expect("scan");
        assert_eq!(hits, [Hit { sentinel: SENTINEL.into(), first: 0, count: 5 }]);
    }

    #[test]
    fn an_image_without_it_is_clean() {
        assert!(found(4096, &[]).is_empty());
    }

    #[test]
    fn sentinels_that_prove_nothing_are_refused() {
        assert!(parse_sentinels("\n").is_err());
        assert!(parse_sentinels(&SENTINEL[..SHORTEST_SENTINEL - 1]).is_err());
        assert_eq!(parse_sentinels(&format!("{SENTINEL}\n{}\n", &SENTINEL[1..])).expect("two").len(), 2);
    }
}
