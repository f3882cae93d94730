// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The two load generators: their command lines and what they print.

use super::contender::Contender;
use super::workload::{Task, Workload};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;

/// Which client, and how it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The program.
    pub program: Program,
    /// Whether it polls the ring. Otherwise it sleeps until a notification.
    pub polling: bool,
}

/// The programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// benches/load
    Load,
    /// benches/blkio-client
    Blkio,
}

impl Client {
    /// All, in the order of the report.
    pub const ALL: [Client; 4] = [
        Client { program: Program::Load, polling: false },
        Client { program: Program::Load, polling: true },
        Client { program: Program::Blkio, polling: false },
        Client { program: Program::Blkio, polling: true },
    ];

    /// Name, for tables.
    pub fn name(self) -> &'static str {
        match (self.program, self.polling) {
            (Program::Load, false) => "load, blocking",
            (Program::Load, true) => "load, polling",
            (Program::Blkio, false) => "libblkio, blocking",
            (Program::Blkio, true) => "libblkio, polling",
        }
    }

    /// Whether it supports the requests that this contender and this workload need.
    pub fn can(self, workload: &Workload, contender: &Contender) -> bool {
        self.program == Program::Load || (workload.task == Task::Load && contender.unit.is_none())
    }
}

/// What a client measured: its output, and a sample of the report.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Requests completed.
    pub requests: f64,
    /// Bytes of their data.
    pub bytes: f64,
    /// Length of the timed window.
    pub seconds: f64,
    /// CPU seconds of the server in it.
    pub server_cpu: f64,
    /// CPU seconds of the client.
    pub client_cpu: f64,
    /// Keyslots programmed, or new keys carried by requests.
    #[serde(default)]
    pub programs: f64,
}

impl Measured {
    /// Parses a client's line.
    pub fn parse(text: &str) -> Result<Self> {
        let measured: Self =
            serde_json::from_str(text).with_context(|| format!("cannot parse the client's output {text:?}"))?;
        ensure!(measured.seconds > 0.0 && measured.requests > 0.0, "nothing was measured: {text}");
        Ok(measured)
    }

    /// Requests per second.
    pub fn iops(&self) -> f64 {
        self.requests / self.seconds
    }

    /// Bytes per second.
    pub fn throughput(&self) -> f64 {
        self.bytes / self.seconds
    }

    /// CPU seconds of the server for a million requests.
    pub fn cpu_per_million(&self) -> f64 {
        self.server_cpu / self.requests * 1e6
    }

    /// CPU seconds of the server for 10^9 bytes.
    pub fn cpu_per_gigabyte(&self) -> f64 {
        self.server_cpu / self.bytes * 1e9
    }
}

/// What one call of a client measures.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The load.
    pub workload: &'a Workload,
    /// Data unit size of encrypted requests.
    pub unit: Option<u32>,
    /// Whether each request carries its key.
    pub key_in_request: bool,
    /// Whether to poll the ring.
    pub polling: bool,
    /// Seconds.
    pub seconds: f64,
}

impl Call<'_> {
    /// Adds the options that all tasks have.
    fn load(&self, command: &mut Command) {
        let workload = self.workload;
        command.args(["--operation", workload.operation, "--block", &workload.block.to_string()]);
        command.args(["--depth", &workload.depth.to_string(), "--seconds", &self.seconds.to_string()]);
        // A server may take some time to learn which pages are written repeatedly.
        let warmup = if workload.operation.contains("write") { 0.3 } else { (self.seconds / 5.0).min(0.2) };
        command.args(["--warmup", &warmup.to_string()]);
        if self.polling {
            command.arg("--polling");
        }
        self.encryption(command);
        match workload.task {
            Task::Load => {}
            Task::Churn => drop(command.args(["--task", "churn"])),
            Task::ChurnBeside => drop(command.args(["--task", "churn-beside"])),
        }
    }

    fn encryption(&self, command: &mut Command) {
        if let Some(unit) = self.unit {
            command.args(["--unit", &unit.to_string()]);
        }
        if self.key_in_request {
            command.arg("--key-in-request");
        }
    }

    /// Measures a device.
    pub fn device(&self, command: &mut Command, socket: &Path, server: u32) {
        self.load(command);
        command.arg("--socket").arg(socket).args(["--server-pid", &server.to_string()]);
    }

    /// Measures the engine.
    pub fn engine(&self, command: &mut Command) {
        self.load(command);
        command.args(["--task", "engine"]);
    }

    /// Touches every page of a disk.
    pub fn fill(command: &mut Command, socket: &Path) {
        command.args(["--task", "fill", "--block", "131072"]).arg("--socket").arg(socket);
    }

    /// Checks that a device stores what it is given.
    pub fn verify(&self, command: &mut Command, socket: &Path) {
        command.args(["--task", "verify", "--operation", "randwrite", "--block", "8192"]).arg("--socket").arg(socket);
        self.encryption(command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_both_clients() {
        let text = "{\"requests\":1000,\"bytes\":4096000,\"seconds\":0.5,\"server_cpu\":0.25,\"client_cpu\":0.1}\n";
        let measured = Measured::parse(text).unwrap();
        assert_eq!((measured.iops(), measured.throughput(), measured.programs), (2000.0, 8_192_000.0, 0.0));
        assert_eq!(measured.cpu_per_million(), 250.0);
        assert!((measured.cpu_per_gigabyte() - 61.035).abs() < 1e-3);
        let text = text.replace("0.1}", "0.1,\"programs\":7}");
        assert_eq!(Measured::parse(&text).unwrap().programs, 7.0);
    }

    #[test]
    fn output_without_a_measurement_is_an_error() {
        for text in ["", "x", "{}", "{\"requests\":0,\"bytes\":0,\"seconds\":1,\"server_cpu\":0,\"client_cpu\":0}"] {
            assert!(Measured::parse(text).is_err(), "{text}");
        }
    }
}
