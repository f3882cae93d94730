// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The header of a report: the machine, the programs and the settings of a run.

use crate::process::{command, output};
use anyhow::Result;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Names and values, and a warning.
#[derive(Debug, Clone, Default)]
pub struct Header {
    /// In the order of the report.
    pub lines: Vec<(String, String)>,
    /// A warning that comes first.
    pub warning: Option<&'static str>,
}

impl Header {
    /// A header that begins with the date.
    pub fn new() -> Result<Self> {
        let mut header = Self::default();
        header.add("date", output(command("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))?);
        Ok(header)
    }

    /// Adds a line.
    pub fn add(&mut self, name: impl Into<String>, value: impl AsRef<str>) {
        self.lines.push((name.into(), value.as_ref().trim().to_owned()));
    }

    /// Adds the version of a program.
    pub fn add_version(&mut self, name: &str, program: &Path) -> Result<()> {
        self.add(name, output(command(program).arg("--version"))?);
        Ok(())
    }

    /// Adds how the run was made, and the command that makes it again.
    pub fn add_command(&mut self, how: &str) {
        self.add("how", how);
        self.add("command", std::env::args().skip(1).fold("cargo xtask".to_owned(), |all, arg| all + " " + &arg));
    }

    /// A value.
    pub fn get(&self, name: &str) -> &str {
        self.lines.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// As text.
    pub fn text(&self) -> String {
        let warning = self.warning.map(|warning| ("WARNING", warning));
        let lines = self.lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(warning);
        lines.map(|(name, value)| format!("{name:<24} {value}\n")).collect()
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        self.lines.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
    }
}

/// The content of a file such as /proc/cpuinfo; empty if there is none.
pub fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// CPU features that make crypto fast, by their names in /proc/cpuinfo.
const FLAGS: &[&str] = &["aes", "vaes", "vpclmulqdq", "avx2", "avx512f"];

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
