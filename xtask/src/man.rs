// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask man`: the manual pages in `man/`, made from the device's command line.

use crate::device::{PROGRAM, cargo};
use crate::paths::Paths;
use crate::process::run_logged;
use anyhow::{Context, Result};
use std::fs;

/// Makes all pages. Only the program knows its command line, so one of its tests writes them; without the variable, that test
/// compares them.
pub fn run(paths: &Paths) -> Result<bool> {
    let dir = paths.root.join("man");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut cargo = cargo(paths);
    cargo.args(["test", "--bin", PROGRAM, "the_manual_pages"]).env("UPDATE_DOCS", "1");
    run_logged(&mut cargo, &paths.log("man")).context("the manual pages could not be made")?;
    println!("{} is up to date: try man {}", dir.display(), dir.join(format!("{PROGRAM}.1")).display());
    Ok(true)
}
