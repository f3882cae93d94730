// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The disks: each is a device of its own, with a control socket for its counters.

use super::target;
use crate::device::{self, Device};
use crate::vm::QUEUES;
use anyhow::{Context, Result, bail};
use procfs::process::Process;
use serde::Serialize;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options that this command sets itself.
const OWN: [&str; 10] = [
    "--socket-path",
    "--fd",
    "--blk-file",
    "--blk-ram",
    "--control",
    "--stats",
    "--serial",
    "--num-queues",
    "--queue-size",
    "--exit-on-disconnect",
];

/// How long a front polls that polls, in microseconds: longer than QEMU and the guest's driver take between two accesses.
const POLLS_US: &str = "1000";

/// A device's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Counters {
    /// Encrypted requests.
    pub crypto_requests: u64,
    /// Bytes read and written, encrypted.
    pub crypto_bytes: u64,
    /// Bytes read and written, plain.
    pub plain_bytes: u64,
    /// Data units encrypted.
    pub encrypted: u64,
    /// Data units decrypted.
    pub decrypted: u64,
    /// Keyslots programmed.
    pub programs: u64,
    /// Keyslots evicted.
    pub evicts: u64,
    /// Encrypted requests to an empty keyslot.
    pub nokey: u64,
}

impl Counters {
    /// From the device's statistics, `docs/statistics.md`.
    pub fn read(stats: &Value) -> Option<Self> {
        let at = |group: &str, name: &str| stats.get(group)?.get(name)?.as_u64();
        let both = |group: &str, a: &str, b: &str| Some(at(group, a)? + at(group, b)?);
        Some(Self {
            crypto_requests: both("requests", "crypto_in", "crypto_out")?,
            crypto_bytes: both("bytes", "crypto_in", "crypto_out")?,
            plain_bytes: both("bytes", "in", "out")?,
            encrypted: at("data_units", "encrypted")?,
            decrypted: at("data_units", "decrypted")?,
            programs: at("keyslots", "program")?,
            evicts: at("keyslots", "evict")?,
            nokey: at("keyslots", "nokey")?,
        })
    }

    /// Adds or subtracts each counter.
    fn with(self, other: Self, op: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            crypto_requests: op(self.crypto_requests, other.crypto_requests),
            crypto_bytes: op(self.crypto_bytes, other.crypto_bytes),
            plain_bytes: op(self.plain_bytes, other.plain_bytes),
            encrypted: op(self.encrypted, other.encrypted),
            decrypted: op(self.decrypted, other.decrypted),
            programs: op(self.programs, other.programs),
            evicts: op(self.evicts, other.evicts),
            nokey: op(self.nokey, other.nokey),
        }
    }

    /// What was counted since `before`.
    pub fn since(self, before: Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// Program commands for each encrypted request.
    pub fn programs_per_request(&self) -> Option<f64> {
        (self.crypto_requests > 0).then(|| self.programs as f64 / self.crypto_requests as f64)
    }

    /// The share of encrypted requests that found their key in a slot.
    pub fn hit_rate(&self) -> Option<f64> {
        self.programs_per_request().map(|programs| (1.0 - programs).max(0.0))
    }
}

/// A running device.
pub struct Disk {
    /// Which one.
    pub what: target::Disk,
    /// The options that define it, for the report.
    pub options: Vec<String>,
    device: Device,
    control: BufReader<UnixStream>,
}

impl Disk {
    /// Starts it with a fresh image of this size.
    pub fn start(
        what: target::Disk,
        program: &Path,
        user: &[String],
        (images, bytes): (&Path, u64),
        (sockets, logs): (&Path, &Path),
    ) -> Result<Self> {
        let name = what.serial().to_lowercase();
        let image = images.join(format!("{name}.img"));
        device::make_image(&image, bytes)?;
        let socket_dir = sockets.join(&name);
        fs::create_dir(&socket_dir)?;
        let path = socket_dir.join("control");
        let options = options(what, user)?;
        let mut extra = options.clone();
        extra.extend(["--serial".into(), what.serial(), "--control".into(), path.display().to_string()]);
        let device = Device::start(&device::Options {
            program,
            image: &image,
            queues: match what {
                target::Disk::Front { ufs: true, .. } => None,
                target::Disk::Front { ufs: false, .. } => Some(1),
                _ => Some(QUEUES),
            },
            extra: &extra,
            stats: &logs.join(format!("{name}.stats.json")),
            log: &logs.join(format!("{name}.device.log")),
            socket_dir: &socket_dir,
        })
        .with_context(|| format!("with the options {}", options.join(" ")))?;
        let control = UnixStream::connect(&path).with_context(|| format!("cannot connect to {}", path.display()))?;
        control.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { what, options, device, control: BufReader::new(control) })
    }

    /// Where QEMU connects.
    pub fn socket(&self) -> PathBuf {
        self.device.socket.clone()
    }

    /// Its counters so far.
    pub fn counters(&mut self) -> Result<Counters> {
        self.control.get_mut().write_all(b"{\"command\":\"stats\"}\n").context("the device's control socket")?;
        let mut line = String::new();
        self.control.read_line(&mut line).context("the device's control socket")?;
        let reply: Value = serde_json::from_str(&line).context("the device's control socket")?;
        reply.get("result").and_then(Counters::read).with_context(|| format!("the device said {}", line.trim()))
    }

    /// CPU time that its process has used, in seconds.
    pub fn cpu(&self) -> Result<f64> {
        // /proc/PID/stat counts hundredths of a second, which is too coarse for loads of milliseconds. A thread may end
        // meanwhile.
        let threads = Process::new(self.device.id().cast_signed())?.tasks()?.flatten();
        let nanoseconds: u64 = threads.filter_map(|thread| Some(thread.schedstat().ok()?.sum_exec_runtime)).sum();
        Ok(nanoseconds as f64 / 1e9)
    }

    /// Waits until it exits, after QEMU.
    pub fn finish(self) -> Result<()> {
        let serial = self.what.serial();
        drop(self.control);
        self.device.finish().with_context(|| format!("disk {serial}"))
    }
}

/// The user's options, and those that define this disk.
fn options(what: target::Disk, user: &[String]) -> Result<Vec<String>> {
    let name = |option: &String| option.split('=').next().unwrap_or_default().to_owned();
    if let Some(own) = user.iter().map(name).find(|o| OWN.contains(&o.as_str())) {
        bail!("compare sets {own} itself; leave it out");
    }
    let keyslots = match what {
        target::Disk::Keyslots(n) => Some(n),
        target::Disk::KeysInRequests => Some(0),
        _ => None,
    };
    let polls = match what {
        target::Disk::Front { polls, .. } => Some(polls),
        _ => None,
    };
    let mut options = vec![];
    let mut rest = user.iter();
    let mut key_types = None;
    while let Some(option) = rest.next() {
        let (flag, value) = match option.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (option.as_str(), None),
        };
        match flag {
            "--key-types" => key_types = value.or_else(|| rest.next().cloned()),
            "--keyslots" if keyslots.is_some() => {
                if value.is_none() {
                    rest.next();
                }
            }
            "--poll-us" if polls.is_some() => {
                if value.is_none() {
                    rest.next();
                }
            }
            _ => options.push(option.clone()),
        }
    }
    let types = key_types.unwrap_or_else(|| "raw".to_owned());
    if !types.split(',').any(|t| t == "raw") {
        bail!("--key-types {types}: compare uses raw keys; add raw");
    }
    let types = if what == target::Disk::NoRawKeys { "wrapped".to_owned() } else { types };
    options.extend(["--key-types".to_owned(), types]);
    if let Some(n) = keyslots {
        options.extend(["--keyslots".to_owned(), n.to_string()]);
    }
    if let Some(polls) = polls {
        let time = if polls { POLLS_US } else { "0" };
        options.extend(["--logical-block-size", "4096", "--poll-us", time].map(str::to_owned));
    }
    if matches!(what, target::Disk::Front { ufs: true, .. }) {
        options.push("--ufs".to_owned());
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counters_of_a_window() {
        let stats = |n: u64| {
            json!({
                "requests": {"crypto_in": 8 * n, "crypto_out": 2 * n}, "bytes": {"crypto_in": n, "crypto_out": n, "in": 0,
                "out": 5}, "data_units": {"encrypted": n, "decrypted": n}, "keyslots": {"program": n, "evict": 0, "nokey": 0}
            })
        };
        let (before, after) = (Counters::read(&stats(1)).unwrap(), Counters::read(&stats(11)).unwrap());
        let counted = after.since(before);
        assert_eq!((counted.crypto_requests, counted.plain_bytes, counted.programs), (100, 0, 10));
        assert_eq!(counted.hit_rate(), Some(0.9));
        assert_eq!(Counters::default().hit_rate(), None);
        assert_eq!(before.plus(counted), after);
        assert_eq!(Counters::read(&json!({"requests": {}})), None);
    }

    #[test]
    fn options_of_the_disks() {
        let of = |what, user: &str| {
            let user: Vec<String> = user.split_whitespace().map(str::to_owned).collect();
            options(what, &user).map(|o| o.join(" "))
        };
        use target::Disk::{Front, KeysInRequests, Keyslots, Main, NoRawKeys};
        assert_eq!(
            of(Front { ufs: true, polls: false }, "--poll-us 7").unwrap(),
            "--key-types raw --logical-block-size 4096 --poll-us 0 --ufs"
        );
        assert_eq!(of(Main, "--keyslots 8").unwrap(), "--keyslots 8 --key-types raw");
        assert_eq!(of(Keyslots(4), "--keyslots 8 --latency").unwrap(), "--latency --key-types raw --keyslots 4");
        assert_eq!(of(KeysInRequests, "--keyslots 8").unwrap(), "--key-types raw --keyslots 0");
        assert_eq!(of(Keyslots(4), "--keyslots=8").unwrap(), "--key-types raw --keyslots 4");
        assert_eq!(of(NoRawKeys, "--key-types=raw,wrapped").unwrap(), "--key-types wrapped");
        assert_eq!(of(Main, "--key-types raw,wrapped").unwrap(), "--key-types raw,wrapped");
        assert!(of(Main, "--key-types wrapped").is_err() && of(Main, "--stats=x").is_err());
    }
}
