// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The options of `ctl`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use vhost_user_blk_crypto::observe::trace::print::TraceFormat;

/// Ask a running device, or tell it something, by its control socket (the device's option --control).
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The device's control socket
    #[arg(long, value_name = "PATH", global = true)]
    pub control: Option<PathBuf>,

    /// Print the device's answer as JSON
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: CtlCommand,
}

#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// Version, engine, options, image, negotiated features, queues
    Status,
    /// All counters, see docs/statistics.md
    Stats {
        /// Form of the counters
        #[arg(long, value_enum, value_name = "FORM", default_value_t = StatsFormat::Text)]
        format: StatsFormat,
    },
    /// What the keyslots hold (never a key)
    Keyslots {
        /// Also empty slots
        #[arg(long)]
        all: bool,
    },
    /// Record latency histograms, or stop to
    Latency {
        /// On or off
        #[arg(value_enum)]
        switch: Switch,
    },
    /// Start, end or print a trace of all requests
    Trace {
        #[command(subcommand)]
        command: TraceCommand,
    },
    /// Let something go wrong on cue, see docs/faults.md
    Fault {
        #[command(subcommand)]
        command: FaultCommand,
    },
    /// Lose all keys, as an engine that was reset; the guest's driver programs them again
    ResetEngine,
    /// Take over the size that the image has now (as the signal SIGHUP), and tell the guest
    Resize {
        /// Enlarge a regular file or a memory disk to this before: bytes, with K, M, G or T
        #[arg(value_name = "SIZE", value_parser = super::number::nonzero_size)]
        size: Option<u64>,
    },
    /// Queues, keyslots and throughput, again and again
    Top {
        /// Print once and exit (the default when standard output is no terminal)
        #[arg(long)]
        once: bool,
        /// Seconds between two looks
        #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
        interval: f64,
    },
}

#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Start a trace into a file, which the device writes
    On {
        /// A new file, or an old trace, which is replaced; of a device in its sandbox, the file of its option --trace
        file: PathBuf,
    },
    /// End the trace
    Off,
    /// Print a trace: a file, or what the device is writing
    Dump {
        /// The file; no device is asked then
        file: Option<PathBuf>,
        /// Form of the trace
        #[arg(long, value_enum, value_name = "FORM", default_value_t = TraceFormat::Text)]
        format: TraceFormat,
    },
}

#[derive(Debug, Subcommand)]
pub enum FaultCommand {
    /// Add a fault, for requests that come from now on
    Add {
        /// What goes wrong, and when: as --fault of the device
        spec: String,
    },
    /// The faults that there are, and how often they have struck
    List,
    /// Remove a fault, or all; what is stuck goes on
    Clear {
        /// The fault's number
        fault: Option<u64>,
    },
}

/// `stats --format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// For people
    Text,
    /// As --json
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
