// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The search for plaintext anywhere on an image.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use memchr::memmem;

/// A sentinel shorter than this could turn up in random data.
pub const SHORTEST_SENTINEL: usize = 12;

/// Where a sentinel was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The sentinel.
    pub sentinel: String,
    /// Offset of its first occurrence on the image.
    pub first: u64,
    /// How often it occurs.
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
            "the sentinel \"{sentinel}\" is so short that it could turn up by chance"
        );
    }
    Ok(sentinels)
}

/// Searches the whole image for every sentinel.
pub fn scan(image: &File, size: u64, sentinels: &[String]) -> Result<Vec<Hit>> {
    scan_in_chunks(image, size, sentinels, 1 << 20)
}

/// Consecutive chunks overlap, so that an occurrence across a border is found, and found once.
fn scan_in_chunks(image: &File, size: u64, sentinels: &[String], chunk: usize) -> Result<Vec<Hit>> {
    let overlap = sentinels.iter().map(String::len).max().unwrap_or(1) - 1;
    let finders: Vec<_> = sentinels.iter().map(memmem::Finder::new).collect();
    let mut hits: Vec<Option<Hit>> = vec![None; sentinels.len()];
    let mut buffer = vec![0; chunk + overlap];
    let mut start = 0;
    while start < size {
        let length = usize::try_from((size - start).min(buffer.len() as u64))?;
        image.read_exact_at(&mut buffer[..length], start)?;
        for ((finder, sentinel), hit) in finders.iter().zip(sentinels).zip(&mut hits) {
            let found = finder
                .find_iter(&buffer[..length])
                // The next chunk covers the overlap.
                .take_while(|at| *at < chunk);
            for at in found {
                hit.get_or_insert_with(|| Hit { sentinel: sentinel.clone(), first: start + at as u64, count: 0 })
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

    const SENTINEL: &str = "a sentinel text";

    fn image(size: usize, at: &[usize]) -> File {
        let mut data = vec![0x5a; size];
        for at in at {
            data[*at..*at + SENTINEL.len()].copy_from_slice(SENTINEL.as_bytes());
        }
        let file = tempfile::tempfile().expect("temporary file");
        file.write_all_at(&data, 0).expect("write");
        file
    }

    /// The scan finds the sentinel wherever it begins, chunk borders and the last bytes included.
    #[test]
    fn every_position_is_found_once() {
        let size = 256;
        for at in 0..=size - SENTINEL.len() {
            let hits = scan_in_chunks(&image(size, &[at]), size as u64, &[SENTINEL.into()], 64).expect("scan");
            assert_eq!(hits, [Hit { sentinel: SENTINEL.into(), first: at as u64, count: 1 }], "at {at}");
        }
    }

    #[test]
    fn all_occurrences_are_counted() {
        let file = image(3 << 20, &[0, (1 << 20) - 3, 2 << 20]);
        let hits = scan(&file, 3 << 20, &["not on the image".into(), SENTINEL.into()]).expect("scan");
        assert_eq!(hits.len(), 1);
        assert_eq!((hits[0].first, hits[0].count), (0, 3));
    }

    #[test]
    fn an_image_without_it_is_clean() {
        assert!(scan(&image(4096, &[]), 4096, &[SENTINEL.into()]).expect("scan").is_empty());
    }

    #[test]
    fn sentinels_that_prove_nothing_are_refused() {
        assert!(parse_sentinels("\n").is_err());
        assert!(parse_sentinels("short\n").is_err());
        assert_eq!(parse_sentinels("a sentinel text\nanother sentinel\n").expect("two").len(), 2);
    }
}
