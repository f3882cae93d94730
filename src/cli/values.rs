// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Values of the device's options.

use clap::ValueEnum;

use scattered_xts::Implementation;
use vhost_user_blk_crypto::disk::Aio;

/// `--sandbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SandboxMode {
    /// As far as the system supports it
    On,
    /// No sandbox
    None,
    /// Completely; exit if the system lacks a part
    Require,
}

/// `--cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CacheMode {
    /// Writes are durable after a flush
    Writeback,
    /// Writes are durable when they complete
    Writethrough,
    /// Writes bypass the host's page cache and are durable after a flush
    None,
}

/// `--aio`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AioMode {
    /// Chosen by the kind of image
    Auto,
    /// System calls in the worker
    Sync,
    /// io_uring
    #[value(name = "io_uring")]
    IoUring,
    /// Helper threads
    Threads,
}

impl AioMode {
    /// `None` for auto.
    pub fn choice(self) -> Option<Aio> {
        match self {
            Self::Auto => None,
            Self::Sync => Some(Aio::Sync),
            Self::IoUring => Some(Aio::IoUring),
            Self::Threads => Some(Aio::Threads),
        }
    }
}

/// `--cpus`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpus(pub(super) Vec<usize>);

pub(super) fn parse_cpus(text: &str) -> Result<Cpus, String> {
    let cpu = |text: &str| match text.trim().parse::<usize>() {
        Ok(cpu) if cpu < rustix::thread::CpuSet::MAX_CPU => Ok(cpu),
        _ => Err(format!("{text:?} is not the number of a CPU")),
    };
    let mut cpus = Vec::new();
    for word in text.split(',') {
        match word.split_once('-') {
            None => cpus.push(cpu(word)?),
            Some((first, last)) => cpus.extend(cpu(first)?..=cpu(last)?),
        }
    }
    if cpus.is_empty() { Err(format!("{text:?} names no CPU")) } else { Ok(Cpus(cpus)) }
}

/// `--discard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiscardMode {
    /// If the image supports it
    Auto,
    /// Always; exit at start if the image does not support it
    On,
    /// Never
    Off,
}

pub(super) fn parse_crypto_engine(name: &str) -> Result<Implementation, String> {
    if name == "auto" {
        return Ok(Implementation::detect());
    }
    let available: Vec<_> = Implementation::available().map(Implementation::name).collect();
    let available = format!("this CPU can run {}; auto takes the first", available.join(", "));
    match name.parse::<Implementation>() {
        Ok(implementation) if implementation.is_available() => Ok(implementation),
        Ok(implementation) => Err(format!("this CPU cannot run {implementation}: {available}")),
        Err(error) => Err(format!("{error}; {available}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpus("0,2-4, 7"), Ok(Cpus(vec![0, 2, 3, 4, 7])));
        for bad in ["", "x", "1,", "3-1", "1-x", "100000"] {
            assert!(parse_cpus(bad).is_err(), "{bad:?}");
        }
    }
}
