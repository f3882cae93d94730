// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Comparing a piece with a file, data unit by data unit.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use scattered_xts::Dun;

use super::{Piece, STEP};

pub struct Comparison {
    file: File,
    path: PathBuf,
    len: u64,
    unit: u64,
    expected: Vec<u8>,
    first: Option<Difference>,
    differing_units: u64,
}

/// The first difference.
struct Difference {
    /// Offset in the piece.
    at: u64,
    found: u8,
    expected: u8,
}

impl Comparison {
    pub fn new(file: File, len: u64, path: &Path, piece: &Piece) -> Result<Self> {
        ensure!(
            len.checked_next_multiple_of(piece.unit).is_none_or(|end| end >= piece.len),
            "{} has {len} bytes, and the piece {}; give a smaller --length",
            path.display(),
            piece.len
        );
        let expected = vec![0; STEP];
        Ok(Self { file, path: path.to_owned(), len, unit: piece.unit, expected, first: None, differing_units: 0 })
    }

    /// Compares `data`, whole data units at `offset` of the piece. Past the end of the file it expects zeroes, with
    /// which file systems fill the last data unit.
    pub fn step(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let expected = &mut self.expected[..data.len()];
        expected.fill(0);
        let here = self.len.saturating_sub(offset).min(data.len() as u64) as usize; // at most data.len()
        self.file
            .read_exact_at(&mut expected[..here], offset)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        let unit = self.unit as usize; // at most 1 MiB
        for (number, (found, wanted)) in data.chunks(unit).zip(expected.chunks(unit)).enumerate() {
            if found == wanted {
                continue;
            }
            self.differing_units += 1;
            if self.first.is_none() {
                let place = found.iter().zip(wanted).position(|(a, b)| a != b).unwrap_or(0);
                let at = offset + (number * unit + place) as u64; // inside the piece
                self.first = Some(Difference { at, found: found[place], expected: wanted[place] });
            }
        }
        Ok(())
    }

    /// Whether all data is the same, and the report to print.
    pub fn report(&self, piece: &Piece, first_dun: Dun) -> (bool, String) {
        let units = piece.len / piece.unit;
        let Some(Difference { at, found, expected }) = self.first else {
            return (true, format!("the same: {} bytes, {units} data units of {}", piece.len, piece.unit));
        };
        let number = at / piece.unit;
        let dun = first_dun.checked_add(number).map_or_else(String::new, |dun| format!(" (DUN {})", hex(dun)));
        let text = format!(
            "different: {} of {units} data units; first in data unit {number}{dun}, byte {} of it, byte {at} of the \
             piece, byte {} of the image: it is {found:#04x}, expected {expected:#04x}",
            self.differing_units,
            at % piece.unit,
            piece.offset + at,
        );
        (false, text)
    }
}

/// 0x and up to 64 digits.
fn hex(dun: Dun) -> String {
    let text: String = dun.words().iter().rev().map(|word| format!("{word:016x}")).collect();
    match text.trim_start_matches('0') {
        "" => "0x0".to_owned(),
        digits => format!("0x{digits}"),
    }
}
