// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The comparison of an image with what the plans say must be on it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

use crate::guess::Guesser;
use crate::plan::{Crypto, Piece, Plan};
use crate::xts::Xts;

/// The maximum number of guesses for a plan. They take time.
const GUESSES_PER_PLAN: usize = 4;

/// A data unit that is not what it should be.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The file or area.
    pub name: String,
    /// Index of the data unit in it.
    pub index: u64,
    /// Its offset on the image.
    pub physical: u64,
    /// The data unit number it should have been encrypted with; `None` for plain data.
    pub dun: Option<u128>,
    /// The 16 bytes expected where the first difference is.
    pub expected: Vec<u8>,
    /// The 16 bytes found there.
    pub found: Vec<u8>,
    /// Offset of the first different byte in the data unit.
    pub first_difference: usize,
    /// What it may be instead.
    pub guess: String,
}

/// The result of one plan.
#[derive(Default)]
pub struct Outcome {
    /// Data units compared.
    pub units: u64,
    /// Bytes compared.
    pub bytes: u64,
    /// Those that differ.
    pub mismatches: Vec<Mismatch>,
}

/// Compares every data unit of a plan. The other plans only help to guess what went wrong.
pub fn check(image: &File, plan: &Plan, all: &[Plan]) -> Result<Outcome> {
    let mut checker = Checker::new(image, plan, all)?;
    for piece in &plan.pieces {
        checker
            .check_piece(piece)
            .with_context(|| format!("{}: {} bytes at image offset {}", plan.name, piece.length, piece.physical))?;
    }
    Ok(checker.outcome)
}

struct Checker<'a> {
    image: &'a File,
    plan: &'a Plan,
    all: &'a [Plan],
    xts: Option<Xts>,
    guesser: Option<Guesser<'a>>,
    outcome: Outcome,
}

impl<'a> Checker<'a> {
    fn new(image: &'a File, plan: &'a Plan, all: &'a [Plan]) -> Result<Self> {
        let xts = match &plan.crypto {
            Crypto::Xts { key, .. } => Some(Xts::new(key).with_context(|| plan.name.clone())?),
            Crypto::None => None,
        };
        Ok(Self { image, plan, all, xts, guesser: None, outcome: Outcome::default() })
    }

    fn check_piece(&mut self, piece: &Piece) -> Result<()> {
        let mut found = vec![0; usize::try_from(piece.length)?];
        self.image.read_exact_at(&mut found, piece.physical)?;
        let start = usize::try_from(piece.logical)?;
        let plaintext = &self.plan.plaintext[start..start + found.len()];
        let unit = usize::try_from(self.plan.data_unit_size)?;
        ensure!(found.len().is_multiple_of(unit), "no whole number of data units");
        for (i, (found, plaintext)) in found.chunks(unit).zip(plaintext.chunks(unit)).enumerate() {
            let index = piece.logical / self.plan.data_unit_size + i as u64;
            let physical = piece.physical + i as u64 * self.plan.data_unit_size;
            self.check_unit(index, physical, found, plaintext)?;
        }
        Ok(())
    }

    fn check_unit(&mut self, index: u64, physical: u64, found: &[u8], plaintext: &[u8]) -> Result<()> {
        let (dun, expected) = match (&self.plan.crypto, &mut self.xts) {
            (Crypto::Xts { numbering, .. }, Some(xts)) => {
                let dun = numbering.dun(index)?;
                (Some(dun), xts.encrypt(dun, plaintext)?)
            }
            _ => (None, plaintext.to_vec()),
        };
        self.outcome.units += 1;
        self.outcome.bytes += found.len() as u64;
        if expected == found {
            return Ok(());
        }
        let guess = self.guess(index, physical, found, plaintext)?;
        let first_difference = expected.iter().zip(found).take_while(|(e, f)| e == f).count();
        let shown = first_difference / 16 * 16..first_difference / 16 * 16 + 16;
        self.outcome.mismatches.push(Mismatch {
            name: self.plan.name.clone(),
            index,
            physical,
            dun,
            expected: expected[shown.clone()].to_vec(),
            found: found[shown].to_vec(),
            first_difference,
            guess,
        });
        Ok(())
    }

    fn guess(&mut self, index: u64, physical: u64, found: &[u8], plaintext: &[u8]) -> Result<String> {
        if self.outcome.mismatches.len() >= GUESSES_PER_PLAN {
            return Ok("not looked into".into());
        }
        let guesser = match &mut self.guesser {
            Some(guesser) => guesser,
            none => none.insert(Guesser::new(self.plan, self.all)?),
        };
        guesser.guess(index, physical, found, plaintext)
    }
}
