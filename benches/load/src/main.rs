// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A load generator: a vhost-user frontend and virtio-blk driver in one process, without a virtual machine.
//!
//! It drives any vhost-user-blk device with plain requests, as `benches/blkio-client` does, and devices with inline
//! encryption also with encrypted requests and key changes, which no public client supports. A run makes one
//! measurement and prints a line of JSON, or an error, with status 1.

mod churn;
mod clock;
mod engine;
mod frontend;
mod load;
mod memory;
mod ring;
mod tickets;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

/// Drives a vhost-user-blk device and prints the results as JSON
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Args {
    /// What to do
    #[arg(long, value_enum, default_value_t)]
    task: Task,
    /// The device's socket; --task engine needs none
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Which requests
    #[arg(long, value_enum, default_value_t)]
    operation: Operation,
    /// Bytes of a request, a multiple of 512
    #[arg(long, value_name = "BYTES", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(512..=1 << 20))]
    block: u32,
    /// Requests in flight
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    depth: u16,
    /// Encrypt requests, with data units of this many bytes
    #[arg(long, value_name = "BYTES")]
    unit: Option<u32>,
    /// Each encrypted request carries its key, for a device without keyslots
    #[arg(long, requires = "unit")]
    key_in_request: bool,
    /// Seconds to measure
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    seconds: f64,
    /// Seconds of the same load before the measurement
    #[arg(long, value_name = "S", default_value_t = 0.1)]
    warmup: f64,
    /// The device's process ID, to measure its CPU time
    #[arg(long, value_name = "PID")]
    server_pid: Option<i32>,
    /// Poll the ring instead of sleeping until the device notifies
    #[arg(long)]
    polling: bool,
}

/// What a run does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Requests, as many at a time as --depth says
    #[default]
    Load,
    /// A new key for each request, 10,000 in turn: program a keyslot, wait, one request, on as many slots as --depth; or
    /// with --key-in-request just the request
    Churn,
    /// Requests with one key, and a control queue that programs other keyslots all the time
    ChurnBeside,
    /// Write and read a few requests and compare: with itself, and with OpenSSL where they are encrypted
    Verify,
    /// Write the whole disk once, so that all of its pages are allocated
    Fill,
    /// The device's crypto engine alone, without a device
    Engine,
}

/// The order and direction of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Operation {
    /// Sequential reads
    Read,
    /// Sequential writes
    Write,
    /// Random reads
    #[default]
    Randread,
    /// Random writes
    Randwrite,
}

impl Operation {
    fn is_write(self) -> bool {
        matches!(self, Self::Write | Self::Randwrite)
    }

    fn is_sequential(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }
}

impl Args {
    /// Binary logarithm of the data unit size of encrypted requests.
    fn unit_bits(&self) -> Result<Option<u32>> {
        self.unit
            .map(|unit| {
                ensure!(
                    unit.is_power_of_two() && self.block.is_multiple_of(unit),
                    "--unit {unit} is not a power of two that divides --block {}",
                    self.block
                );
                Ok(unit.ilog2())
            })
            .transpose()
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vubc-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    ensure!(args.block.is_multiple_of(512), "--block {} is not a multiple of 512", args.block);
    ensure!(
        !args.key_in_request || args.task != Task::ChurnBeside,
        "--task churn-beside programs keyslots: leave --key-in-request out"
    );
    let unit_bits = args.unit_bits()?;
    if args.task == Task::Engine {
        return print(&engine::run(args, unit_bits.context("--task engine needs --unit")?)?);
    }
    let socket = args.socket.as_deref().context("where is the device? give --socket")?;
    let encrypted = unit_bits.is_some();
    let memory = memory::Memory::new(usize::from(args.depth), args.block as usize)?;
    let mut connection = frontend::connect(socket, &memory, encrypted)?;
    match args.task {
        Task::Load => print(&load::run(args, unit_bits, &memory, &mut connection)?),
        Task::Churn if args.key_in_request => print(&load::run(args, unit_bits, &memory, &mut connection)?),
        Task::Churn => print(&churn::each(args, unit_bits, &memory, &mut connection)?),
        Task::ChurnBeside => print(&churn::beside(args, unit_bits, &memory, &mut connection)?),
        Task::Fill => load::fill(args, &memory, &mut connection),
        Task::Verify => verify::run(args, unit_bits, &memory, &mut connection),
        Task::Engine => Ok(()), // returned above
    }
}

fn print(measured: &clock::Measured) -> Result<()> {
    println!("{}", serde_json::to_string(measured)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
        let args = |unit| Args::try_parse_from(["load", "--socket", "s", "--unit", unit]).expect("options");
        assert_eq!(args("512").unit_bits().expect("divides"), Some(9));
        assert!(args("8192").unit_bits().is_err() && args("1000").unit_bits().is_err());
    }
}
