// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `fscrypt-verify IMAGE RESULTS_DIR [--json FILE]`: the command line around [`fscrypt_verify::verify`].

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: fscrypt-verify IMAGE RESULTS_DIR [--json FILE]

Computes the ciphertext of every file that RESULTS_DIR/manifest.jsonl lists, from the keys and the plaintext in
RESULTS_DIR, and compares it with IMAGE; searches all of IMAGE for 16 bytes of the plaintext
named in RESULTS_DIR/sentinel.

Exit status: 0 verified; 1 not verified, or nothing to verify; 2 wrong usage.";

struct Args {
    image: PathBuf,
    results: PathBuf,
    json: Option<PathBuf>,
}

fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Args>> {
    let mut paths = Vec::new();
    let mut json = None;
    let mut args = args.skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--json") => json = Some(args.next().context("--json needs a file name")?.into()),
            Some(option) if option.starts_with('-') => bail!("unknown option {option}"),
            _ => paths.push(PathBuf::from(arg)),
        }
    }
    match <[PathBuf; 2]>::try_from(paths) {
        Ok([image, results]) => Ok(Some(Args { image, results, json })),
        Err(_) => bail!("an image and a results directory are needed"),
    }
}

fn run(args: &Args) -> Result<bool> {
    let report = fscrypt_verify::verify(&args.image, &args.results)?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        fs::write(path, text + "\n").with_context(|| format!("{}", path.display()))?;
    }
    println!("{report}");
    Ok(report.is_verified())
}

fn main() -> ExitCode {
    let args = match parse(std::env::args_os()) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("fscrypt-verify: {error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fscrypt-verify: nothing verified: {error:#}");
            ExitCode::FAILURE
        }
    }
}
