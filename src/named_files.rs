// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The files of the command line must differ: counters or a trace would destroy an image or the wrapping key.

use std::path::Path;

use anyhow::{Result, ensure};
use vhost_user_blk_crypto::disk::are_same;

use crate::cli::Args;

/// Files by option, in the order in which they are opened.
pub struct NamedFiles<'a>(Vec<(&'static str, &'a Path)>);

impl<'a> NamedFiles<'a> {
    pub fn of(args: &'a Args) -> Self {
        let images = args.blk_file.iter().map(|path| ("--blk-file", Some(path)));
        let others = [
            ("--wrapping-key-file", args.wrapping_key_file.as_ref()),
            ("--stats", args.stats.as_ref()),
            ("--trace", args.trace.as_ref()),
        ];
        Self(images.chain(others).filter_map(|(option, path)| Some((option, path?.as_path()))).collect())
    }

    /// Makes sure that the files of an option differ from those before them, which must exist by now.
    pub fn check(&self, option: &str) -> Result<()> {
        let metadata = |path: &Path| std::fs::metadata(path).ok();
        for (place, (_, path)) in self.0.iter().enumerate().filter(|(_, (name, _))| *name == option) {
            // A file that does not exist yet differs from all others.
            let Some(ours) = metadata(path) else { continue };
            for (name, other) in self.0.iter().take(place) {
                let same = metadata(other).is_some_and(|theirs| are_same(&ours, &theirs));
                ensure!(
                    !same,
                    "{} is named with {option} and with {name}; give {option} a file of its own",
                    path.display()
                );
            }
        }
        Ok(())
    }
}
