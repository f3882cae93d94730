// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The files of the command line must differ: counters or a trace would destroy the image or the wrapping key.

use std::path::Path;

use anyhow::{Result, ensure};
use vhost_user_blk_crypto::disk::are_same;

use crate::cli::Args;

/// Files by option, in the order in which they are opened.
pub struct NamedFiles<'a>([(&'static str, Option<&'a Path>); 4]);

impl<'a> NamedFiles<'a> {
    pub fn of(args: &'a Args) -> Self {
        Self([
            ("--blk-file", args.blk_file.as_deref()),
            ("--wrapping-key-file", args.wrapping_key_file.as_deref()),
            ("--stats", args.stats.as_deref()),
            ("--trace", args.trace.as_deref()),
        ])
    }

    /// Makes sure that the file of an option differs from those before it, which must exist by now.
    pub fn check(&self, option: &str) -> Result<()> {
        let metadata = |path: &Path| std::fs::metadata(path).ok();
        let place = self.0.iter().position(|(name, _)| *name == option).unwrap_or_default();
        let (before, rest) = self.0.split_at(place);
        // A file that does not exist yet differs from all others.
        let Some((path, ours)) = rest.first().and_then(|(_, path)| path.and_then(|path| Some((path, metadata(path)?))))
        else {
            return Ok(());
        };
        for (name, other) in before {
            let same = other.and_then(metadata).is_some_and(|theirs| are_same(&ours, &theirs));
            ensure!(
                !same,
                "{} is named with {option} and with {name}; give {option} a file of its own",
                path.display()
            );
        }
        Ok(())
    }
}
