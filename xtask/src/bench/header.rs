// SPDX-License-Identifier: Apache-2.0 OR MIT
//! On which machine, with which programs and how a run was made.

use super::root::Root;
use crate::process::{command, output};
use anyhow::Result;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Names and values, in the order of the report.
pub struct Header(Vec<(&'static str, String)>);

/// What makes crypto fast, as /proc/cpuinfo names it.
const FLAGS: &[&str] = &["aes", "vaes", "vpclmulqdq", "avx2", "avx512f"];

impl Header {
    /// Looks at the machine.
    pub fn new(device: &Path, root: &Root, how: &str) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let version = output(command(device).arg("--version"))?;
        let mut lines = vec![
            ("date", output(command("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?.trim().to_owned()),
            ("CPU", cpu(&cpuinfo)),
            ("kernel", read("/proc/sys/kernel/osrelease")),
            ("device", version.trim().to_owned()),
        ];
        lines.extend(root.versions()?);
        lines.push(("how", how.to_owned()));
        lines.push(("command", std::env::args().skip(1).fold("cargo xtask".to_owned(), |all, arg| all + " " + &arg)));
        Ok(Self(lines))
    }

    /// Adds a line.
    pub fn add(&mut self, name: &'static str, value: String) {
        self.0.push((name, value));
    }

    /// For people.
    pub fn text(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name:<20} {value}\n")).collect()
    }

    /// For programs.
    pub fn json(&self) -> Value {
        self.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
    }

    /// The processor.
    pub fn cpu(&self) -> &str {
        self.0.iter().find(|(name, _)| *name == "CPU").map_or("", |(_, value)| value)
    }
}

/// The processor's name, number of cores and crypto instructions.
pub fn cpu(cpuinfo: &str) -> String {
    let field =
        |name: &str| cpuinfo.lines().find_map(|l| Some(l.split_once(':').filter(|(n, _)| n.trim() == name)?.1.trim()));
    let flags: Vec<&str> = field("flags").unwrap_or("").split_whitespace().filter(|f| FLAGS.contains(f)).collect();
    let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    let number = |name| field(name).unwrap_or("?");
    format!(
        "{} (family {}, model {}), {cores} cores, {}",
        field("model name").unwrap_or("unknown"),
        number("cpu family"),
        number("model"),
        flags.join(" ")
    )
}

/// What this kernel does not allow, and what follows from it.
pub fn io_uring_note() -> Option<String> {
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match disabled.trim() {
        "2" => Some("io_uring is switched off (kernel.io_uring_disabled=2): contenders that need it cannot run".into()),
        "1" if !crate::process::is_root() => {
            Some("io_uring is for root only (kernel.io_uring_disabled=1): contenders that need it may not run".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor() {
        let text = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nflags\t\t: fpu aes sse vaes\n\n\
            processor\t: 1\nmodel name\t: AMD EPYC\n";
        assert_eq!(cpu(text), "AMD EPYC (family 26, model 2), 2 cores, aes vaes");
        assert!(cpu("").starts_with("unknown"));
    }
}
