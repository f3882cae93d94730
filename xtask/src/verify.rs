// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The independent verifier: recomputes from the keys what the image must contain.

use crate::case::Wrong;
use crate::process::{command, run_logged, tail};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The verifier's package and program.
pub const PROGRAM: &str = "fscrypt-verify";

/// Its words about a data unit that was not encrypted.
const PLAINTEXT: &str = "this is plaintext";

/// What was verified.
pub struct Verified {
    /// Files.
    pub files: u64,
    /// Blocks (data units) of their contents.
    pub blocks: u64,
    /// btrfs checksums that the verifier computed from the image, and found in the csum tree.
    pub checksums: u64,
}

impl std::fmt::Display for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.blocks > 0 || self.checksums == 0 {
            write!(f, "ciphertext verified: {} files, {} blocks", self.files, self.blocks)?;
        } else {
            write!(f, "no ciphertext")?;
        }
        if self.checksums > 0 {
            write!(f, "; csum tree verified: {} checksums of data on the image", self.checksums)?;
        }
        Ok(())
    }
}

/// Runs it. Returns whether all is well, what it found, and where its log is.
fn verdict(
    program: &Path,
    image: &Path,
    results: &Path,
    dir: &Path,
    options: &[&str],
) -> Result<(bool, Value, PathBuf)> {
    let (log, json): (PathBuf, PathBuf) = (dir.join("verify.log"), dir.join("verify.json"));
    for old in [&log, &json] {
        let _ = fs::remove_file(old);
    }
    let mut verify = command(program);
    verify.arg(image).arg(results).args(options).arg("--json").arg(&json);
    let verified = run_logged(&mut verify, &log).is_ok();
    let text = match fs::read(&json) {
        Ok(text) => text,
        Err(_) => bail!("the verifier wrote no result:\n{}", tail(&log, 15)),
    };
    Ok((verified, serde_json::from_slice(&text).context("the verifier's result is not JSON")?, log))
}

/// Runs it on an image that must be wrong: as many data units as expected, and one for the expected reason at least. The verifier does
/// not look into all.
pub fn run_on_broken(program: &Path, image: &Path, results: &Path, dir: &Path, expected: &Wrong) -> Result<()> {
    let (verified, value, log) = verdict(program, image, results, dir, &[])?;
    ensure!(!verified, "the device is broken on purpose, but the verifier has not noticed:\n{}", tail(&log, 15));
    let list = |name: &str| value.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    // The guest's kernel encrypts names, so a broken device cannot damage them.
    ensure!(list("wrong_names").is_empty(), "names are wrong, which the device cannot have done:\n{}", tail(&log, 15));
    let wrong = list("mismatches");
    let words = &expected.words;
    let said = |unit: &Value| unit.get("guess").and_then(Value::as_str).is_some_and(|guess| guess.contains(words));
    ensure!(wrong.iter().any(said), "the verifier did not find \"{words}\", but:\n{}", tail(&log, 15));
    let units = value.get("data_units").and_then(Value::as_u64).filter(|units| *units > 0).context("no data units")?;
    let share = 100 * wrong.len() as u64 / units;
    ensure!(expected.share.contains(&share), "{share} % are wrong, not {:?}:\n{}", expected.share, tail(&log, 15));
    // The search for plaintext finds it on each image that has some, and on no other.
    let searched = list("plaintext_found").is_empty() != (words == PLAINTEXT);
    ensure!(searched, "the search for plaintext is wrong:\n{}", tail(&log, 15));
    Ok(())
}

/// Searches the whole image for pieces of a text that must be nowhere on it.
pub fn search(program: &Path, image: &Path, text: &str, dir: &Path) -> Result<()> {
    let log = dir.join("search.log");
    let mut search = command(program);
    search.arg(image).arg("--search").arg(text);
    run_logged(&mut search, &log).with_context(|| format!("the search of the image failed:\n{}", tail(&log, 5)))
}

/// Runs it on an image and the results of the case that wrote it.
pub fn run(program: &Path, image: &Path, results: &Path, dir: &Path) -> Result<Verified> {
    to_verified(verdict(program, image, results, dir, &[])?)
}

/// Runs it on one of the images that a guest has written; `results` has the plaintext of all.
pub fn run_on_one_of_several(program: &Path, image: &Path, results: &Path, dir: &Path) -> Result<Verified> {
    to_verified(verdict(program, image, results, dir, &["--shared-plain"])?)
}

/// What was verified, or why nothing was.
fn to_verified((verified, value, log): (bool, Value, PathBuf)) -> Result<Verified> {
    if !verified {
        bail!("the ciphertext on the image is not what it must be:\n{}", tail(&log, 15));
    }
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let checksums = number("checksums").unwrap_or(0);
    match (number("files"), number("data_units")) {
        (Some(files), Some(blocks)) if files > 0 && blocks > 0 || checksums > 0 => {
            Ok(Verified { files, blocks, checksums })
        }
        (Some(_), Some(_)) => bail!("the verifier found nothing to verify"),
        _ => bail!("the verifier's result has no files and data_units"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A verifier that says this, with this exit status.
    fn broken(said: &str, status: u8) -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("verifier");
        fs::write(&program, format!("#!/bin/sh\necho '{said}' > \"$4\"\nexit {status}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let expected = Wrong { words: PLAINTEXT.to_owned(), share: 20..=25 };
        run_on_broken(&program, Path::new("image"), Path::new("results"), dir.path(), &expected)
    }

    #[test]
    fn a_broken_device_must_be_found_out_for_the_right_reason() {
        let wrong = |guess: &str| {
            format!(
                r#"{{"data_units": 9, "mismatches": [{{"guess": "zeros"}}, {{"guess": "{guess}"}}], "plaintext_found": [{{}}]}}"#
            )
        };
        broken(&wrong(PLAINTEXT), 1).unwrap();
        let error = |said: &str, status| broken(said, status).unwrap_err().to_string();
        assert!(error(&wrong(PLAINTEXT), 0).contains("has not noticed"));
        assert!(error(&wrong("another key"), 1).contains("did not find"));
        assert!(error(&wrong(PLAINTEXT).replace('9', "90"), 1).contains("2 % are wrong, not 20..=25"));
        assert!(error(&wrong(PLAINTEXT).replace("plaintext_found", "x"), 1).contains("the search for plaintext"));
        assert!(error(r#"{"mismatches": [], "plaintext_found": [{}]}"#, 1).contains("did not find"));
        assert!(
            error(r#"{"wrong_names": [{}], "mismatches": [{"guess": "plaintext"}]}"#, 1).contains("names are wrong")
        );
        assert!(error("not JSON", 1).contains("not JSON"));
    }
}
