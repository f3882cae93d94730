// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `fscrypt-verify`: the command line around [`fscrypt_verify::verify`] and [`fscrypt_verify::search`].

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

const USAGE: &str = "\
usage: fscrypt-verify IMAGE RESULTS_DIR [--shared-plain] [--json FILE]
       fscrypt-verify IMAGE --search TEXT

Computes the ciphertext of every file that RESULTS_DIR/manifest.jsonl lists, from the keys and the plaintext in
RESULTS_DIR, and compares it with IMAGE; searches all of IMAGE for 16 bytes of the plaintext
named in RESULTS_DIR/sentinel. With --shared-plain, RESULTS_DIR/plain may have files that manifest.jsonl does
not list: those of other images. --search searches IMAGE for 16 bytes of TEXT, and does nothing else.

Exit status: 0 verified, or nothing found; 1 not verified, nothing to verify, or found; 2 wrong usage.";

struct Args {
    image: PathBuf,
    task: Task,
}

enum Task {
    Verify { results: PathBuf, plain_is_shared: bool, json: Option<PathBuf> },
    Search(String),
}

fn parse(args: impl Iterator<Item = OsString>) -> Result<Option<Args>> {
    let mut paths = Vec::new();
    let mut json = None;
    let mut plain_is_shared = false;
    let mut search = None;
    let mut args = args.skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--json") => json = Some(args.next().context("--json needs a file name")?.into()),
            Some("--shared-plain") => plain_is_shared = true,
            Some("--search") => {
                let text = args.next().and_then(|text| text.into_string().ok());
                search = Some(text.context("--search needs a text")?);
            }
            Some(option) if option.starts_with('-') => bail!("unknown option {option}"),
            _ => paths.push(PathBuf::from(arg)),
        }
    }
    let mut paths = paths.into_iter();
    let (image, task) = match (paths.next(), paths.next(), search) {
        (Some(image), Some(results), None) => (image, Task::Verify { results, plain_is_shared, json }),
        (Some(image), None, Some(text)) if json.is_none() && !plain_is_shared => (image, Task::Search(text)),
        _ => bail!("an image, and either a results directory or --search, are needed"),
    };
    ensure!(paths.next().is_none(), "too many files");
    Ok(Some(Args { image, task }))
}

fn run(args: &Args) -> Result<bool> {
    let (results, plain_is_shared, json) = match &args.task {
        Task::Verify { results, plain_is_shared, json } => (results, *plain_is_shared, json),
        Task::Search(text) => return search(&args.image, text),
    };
    let report = fscrypt_verify::verify(&args.image, results, plain_is_shared)?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report.to_json())?;
        fs::write(path, text + "\n").with_context(|| format!("{}", path.display()))?;
    }
    println!("{report}");
    Ok(report.is_verified())
}

/// True if the text is nowhere on the image.
fn search(image: &Path, text: &str) -> Result<bool> {
    let hits = fscrypt_verify::search(image, text)?;
    for hit in &hits {
        println!("{hit}");
    }
    Ok(hits.is_empty())
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
