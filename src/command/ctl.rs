// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `ctl`: the client of the control socket.

mod client;
mod devices;
mod text;
mod top;

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use vhost_user_blk_crypto::observe::trace::Reader;
use vhost_user_blk_crypto::observe::trace::print::{TraceFormat, print};

use crate::cli::{CtlArgs, CtlCommand, FaultCommand, StatsFormat, Switch, TraceCommand};
use client::ControlClient;

pub fn run(args: &CtlArgs) -> Result<ExitCode> {
    match written(args) {
        // The reader of our output closed the pipe.
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|it| it.kind() == ErrorKind::BrokenPipe) => {
            Ok(ExitCode::SUCCESS)
        }
        result => result.map(|()| ExitCode::SUCCESS),
    }
}

fn written(args: &CtlArgs) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    if let CtlCommand::Trace { command: TraceCommand::Dump { file: Some(file), format } } = &args.command {
        dump(file, args.trace_format(*format), &mut out)?;
        return Ok(out.flush()?);
    }
    if let CtlCommand::Top { once, interval } = args.command {
        ensure!(!args.control.is_empty(), NO_DEVICE);
        return top::run(&args.control, once, interval, args.json);
    }
    let path = match args.control.as_slice() {
        [path] => path,
        [] => bail!(NO_DEVICE),
        _ => bail!("only top shows several devices; give --control once"),
    };
    let mut client = ControlClient::connect(path)?;
    let (request, show): (Value, fn(&Value) -> String) = match &args.command {
        CtlCommand::Status => (json!({ "command": "status" }), text::status),
        CtlCommand::Stats { format: StatsFormat::Prometheus } => {
            (json!({ "command": "stats", "format": "prometheus" }), |reply| {
                reply["text"].as_str().unwrap_or_default().to_owned()
            })
        }
        CtlCommand::Stats { format: StatsFormat::Json } => (json!({ "command": "stats" }), pretty),
        CtlCommand::Stats { format: StatsFormat::Text } => (json!({ "command": "stats" }), text::stats),
        CtlCommand::Keyslots { all } => (json!({ "command": "keyslots", "all": all }), text::keyslots),
        CtlCommand::Latency { switch } => (json!({ "command": "latency", "on": *switch == Switch::On }), |reply| {
            format!("latencies are {}\n", if reply["on"] == true { "recorded" } else { "not recorded" })
        }),
        CtlCommand::Trace { command } => match command {
            TraceCommand::On { file } => {
                let file = std::path::absolute(file)?;
                let file = file.to_str().context("the control socket passes only UTF-8 names; rename the trace")?;
                (json!({ "command": "trace", "action": "on", "file": file }), text::trace)
            }
            TraceCommand::Off => (json!({ "command": "trace", "action": "off" }), text::trace),
            TraceCommand::Dump { format, .. } => {
                let reply = client.ask(&json!({ "command": "trace", "action": "dump" }))?;
                let file = Path::new(reply["file"].as_str().unwrap_or_default());
                dump(file, args.trace_format(*format), &mut out)?;
                return Ok(out.flush()?);
            }
        },
        CtlCommand::Fault { command } => match command {
            FaultCommand::Add { spec } => (json!({ "command": "fault", "action": "add", "spec": spec }), |reply| {
                format!("fault {}\n", reply["fault"])
            }),
            FaultCommand::List => (json!({ "command": "fault", "action": "list" }), text::faults),
            FaultCommand::Clear { fault } => {
                (json!({ "command": "fault", "action": "clear", "fault": fault }), |reply| {
                    format!("{} faults are cleared\n", reply["cleared"])
                })
            }
        },
        CtlCommand::ResetEngine => {
            (json!({ "command": "reset-engine" }), |reply| format!("{} keys are lost\n", reply["lost_keys"]))
        }
        // Older devices know no LUNs.
        CtlCommand::Resize { size, lun: 0 } => (json!({ "command": "resize", "bytes": size }), text::resize),
        CtlCommand::Resize { size, lun } => (json!({ "command": "resize", "bytes": size, "lun": lun }), text::resize),
        CtlCommand::Top { .. } => return Ok(()), // above
    };
    let reply = client.ask(&request)?;
    write!(out, "{}", if args.json { pretty(&reply) } else { show(&reply) })?;
    Ok(out.flush()?)
}

const NO_DEVICE: &str = "no device; give --control PATH, the control socket of the device";

impl CtlArgs {
    /// With --json, a trace is not text.
    fn trace_format(&self, wanted: TraceFormat) -> TraceFormat {
        if self.json && wanted == TraceFormat::Text { TraceFormat::Jsonl } else { wanted }
    }
}

fn pretty(reply: &Value) -> String {
    format!("{reply:#}\n")
}

fn dump(path: &Path, format: TraceFormat, out: &mut impl Write) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open the trace {}", path.display()))?;
    let mut reader = Reader::new(BufReader::new(file)).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(print(&mut reader, format, out)?)
}
