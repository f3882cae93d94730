// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The file of `--stats`. It is opened at start, because the sandbox forbids it later, and rewritten each time.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use vhost_user_blk_crypto::device::Device;

pub struct StatsFile {
    path: PathBuf,
    file: File,
    /// Not a pipe or terminal.
    regular: bool,
}

impl StatsFile {
    /// Opens the file, or creates it for its owner alone. Its content stays until the first counters are written. A
    /// pipe never makes the device wait for its reader.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot write the counters to {}", path.display());
        let mut options = File::options().write(true).create(true).truncate(false).mode(0o600).to_owned();
        let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        if file.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENXIO)) {
            bail!("{}: it is a pipe that nobody reads, or a socket; name a file", cannot());
        }
        let file = file.with_context(cannot)?;
        let kind = file.metadata().with_context(cannot)?.file_type();
        if kind.is_block_device() {
            bail!("{}: it is a block device; name a file", cannot());
        }
        Ok(Self { path: path.to_owned(), file, regular: kind.is_file() })
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
