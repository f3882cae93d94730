// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The file of `--stats`: opened at start, because later nothing can be opened any more, and written anew each time.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use vhost_user_blk_crypto::device::Device;

pub struct StatsFile {
    path: PathBuf,
    file: File,
    /// Not a pipe or terminal.
    regular: bool,
}

impl StatsFile {
    /// Opens the file, or makes it, for the owner alone. What is in it stays until the first counters come.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot write the counters to {}", path.display());
        let options = File::options().write(true).create(true).truncate(false).mode(0o600).clone();
        let file = options.open(path).with_context(cannot)?;
        let regular = file.metadata().with_context(cannot)?.is_file();
        Ok(Self { path: path.to_owned(), file, regular })
    }

    /// Writes the device's counters.
    pub fn write(&self, device: &Device) -> Result<()> {
        let text = serde_json::to_string_pretty(&device.stats()).context("cannot write the counters as JSON")? + "\n";
        let written = if self.regular {
            self.file.set_len(0).and_then(|()| self.file.write_all_at(text.as_bytes(), 0))
        } else {
            (&self.file).write_all(text.as_bytes())
        };
        written.with_context(|| format!("cannot write the counters to {}", self.path.display()))
    }
}
