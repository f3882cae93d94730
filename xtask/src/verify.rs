// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The independent verifier: recomputes from the keys what the image must contain.

use crate::process::{command, run_logged, tail};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The verifier's package and program.
pub const PROGRAM: &str = "fscrypt-verify";

/// What was verified.
pub struct Verified {
    /// Files.
    pub files: u64,
    /// Blocks (data units) of their contents.
    pub blocks: u64,
}

impl std::fmt::Display for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ciphertext verified: {} files, {} blocks", self.files, self.blocks)
    }
}

/// Runs it over an image and the results of the case that wrote it.
pub fn run(program: &Path, image: &Path, results: &Path, dir: &Path) -> Result<Verified> {
    let (log, json): (PathBuf, PathBuf) = (dir.join("verify.log"), dir.join("verify.json"));
    for old in [&log, &json] {
        let _ = fs::remove_file(old);
    }
    let mut verify = command(program);
    verify.arg(image).arg(results).arg("--json").arg(&json);
    if run_logged(&mut verify, &log).is_err() {
        bail!("the ciphertext on the image is not what it must be:\n{}", tail(&log, 15));
    }
    let text = fs::read(&json).context("the verifier wrote no result")?;
    let value: serde_json::Value = serde_json::from_slice(&text).context("the verifier's result is no JSON")?;
    let number = |name: &str| value.get(name).and_then(serde_json::Value::as_u64);
    match (number("files"), number("data_units")) {
        (Some(files), Some(blocks)) if files > 0 && blocks > 0 => Ok(Verified { files, blocks }),
        (Some(_), Some(_)) => bail!("the verifier found nothing to verify"),
        _ => bail!("the verifier's result has no files and data_units"),
    }
}
