// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The options of `ctl`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use vhost_user_blk_crypto::observe::trace::print::TraceFormat;

/// Query or control a running device through its control socket (the device's option --control)
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The device's control socket; `top` takes several, or a directory: all sockets in it whose names end in "control"
    #[arg(long, value_name = "PATH", global = true)]
    pub control: Vec<PathBuf>,

    /// Print JSON (docs/ctl-json.md)
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: CtlCommand,
}

#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// Print version, engine, options, image, negotiated features and queues
    Status,
    /// Print all counters (docs/statistics.md)
    Stats {
        /// Output format
        #[arg(long, value_enum, value_name = "FORM", default_value_t = StatsFormat::Text)]
        format: StatsFormat,
    },
    /// Print the state of the keyslots (never a key)
    Keyslots {
        /// Include empty slots
        #[arg(long)]
        all: bool,
    },
    /// Switch latency histograms on or off
    Latency {
        /// On or off
        #[arg(value_enum)]
        switch: Switch,
    },
    /// Start, stop or print a trace of all requests
    Trace {
        #[command(subcommand)]
        command: TraceCommand,
    },
    /// Inject faults (docs/faults.md)
    Fault {
        #[command(subcommand)]
        command: FaultCommand,
    },
    /// Lose all keys, as in a reset of the engine; the guest's driver programs them again
    ResetEngine,
    /// Read the image's size again (as on the signal SIGHUP) and tell the guest
    Resize {
        /// First enlarge a regular file or a memory disk to this size: bytes, with K, M, G or T
        #[arg(value_name = "SIZE", value_parser = super::number::nonzero_size)]
        size: Option<u64>,
        /// Which of a UFS host controller's logical units
        #[arg(long, value_name = "N", default_value_t = 0)]
        lun: usize,
    },
    /// Show queues, keyslots and throughput, refreshed until interrupted; of several devices a line each
    Top {
        /// Print once and exit (the default with --json, and when standard output is not a terminal)
        #[arg(long)]
        once: bool,
        /// Seconds between two updates
        #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
        interval: f64,
    },
}

#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Start a trace; the device writes it to a file
    On {
        /// A new file, or an old trace to overwrite; a device in its sandbox accepts only the file of its option
        /// --trace
        file: PathBuf,
    },
    /// Stop the trace
    Off,
    /// Print a trace: a file, or the one that the device is writing
    Dump {
        /// The trace file; without it, ctl asks the device for the name
        file: Option<PathBuf>,
        /// Output format
        #[arg(long, value_enum, value_name = "FORM", default_value_t = TraceFormat::Text)]
        format: TraceFormat,
    },
}

#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// Add a fault, which applies to requests from now on
    Add {
        /// What goes wrong and when, in the form of the device's option --fault
        spec: String,
    },
    /// List the faults and how often each has struck
    List,
    /// Remove one fault, or all; requests that they hold back continue
    Clear {
        /// Number of the fault [default: all]
        fault: Option<u64>,
    },
}

/// `stats --format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// Text for people
    Text,
    /// JSON, as with --json
    Json,
    /// Prometheus' text format
    Prometheus,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Switch {
    On,
    Off,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("{text:?} is not a number of seconds from 0.1 to 3600")),
    }
}
