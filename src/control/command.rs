// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From a request line to its reply.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::VERSION;
use crate::device::Device;
use crate::observe::prometheus;

/// Why a request failed: a code for programs, words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// One of the codes in `docs/control.md`.
    pub code: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Error {
    /// Makes an error.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Executes a command with its arguments.
type Handler = fn(&Device, &Value, Map<String, Value>) -> Result<Value, Error>;

/// All commands. A new command needs a line here, a function, and a description in `docs/control.md`.
pub const COMMANDS: &[(&str, Handler)] = &[
    ("status", |device, about, arguments| {
        let NoParams {} = parse(arguments)?;
        let mut status = value(&device.status())?;
        // What the program knows and the device does not: its version, options, the image's path.
        merge(&mut status, about);
        Ok(status)
    }),
    ("stats", |device, _, arguments| {
        let StatsParams { format } = parse(arguments)?;
        let stats = device.stats();
        match format {
            Format::Json => value(&stats),
            Format::Prometheus => Ok(json!({ "text": prometheus::text(&stats) })),
        }
    }),
    ("keyslots", |device, _, arguments| {
        let KeyslotsParams { all } = parse(arguments)?;
        let mut slots = device.keyslots();
        slots.retain(|slot| all || slot.key.is_some());
        Ok(json!({ "keyslots": value(&slots)? }))
    }),
    ("latency", |device, _, arguments| {
        let LatencyParams { on } = parse(arguments)?;
        device.observer().set_latency(on);
        Ok(json!({ "on": on }))
    }),
    ("trace", |device, _, arguments| trace(device, parse(arguments)?)),
    ("fault", |device, _, arguments| fault(device, parse(arguments)?)),
    ("reset-engine", |device, _, arguments| {
        let NoParams {} = parse(arguments)?;
        Ok(json!({ "lost_keys": device.reset_engine() }))
    }),
    ("resize", |device, _, arguments| {
        let ResizeParams { bytes, lun } = parse(arguments)?;
        value(&device.resize_lun(lun, bytes).map_err(|error| Error::new("failed", error.to_string()))?)
    }),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParams {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatsParams {
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Prometheus,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyslotsParams {
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LatencyParams {
    on: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeParams {
    bytes: Option<u64>,
    #[serde(default)]
    lun: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceParams {
    action: TraceAction,
    file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum TraceAction {
    On,
    Off,
    Dump,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultParams {
    action: FaultAction,
    spec: Option<String>,
    fault: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum FaultAction {
    Add,
    List,
    Clear,
}

/// Adds `more` to what is there.
fn merge(there: &mut Value, more: &Value) {
    match (there, more) {
        (Value::Object(there), Value::Object(more)) => {
            for (name, more) in more {
                merge(there.entry(name).or_insert(Value::Null), more);
            }
        }
        (Value::Array(there), Value::Array(more)) => {
            there.iter_mut().zip(more).for_each(|(there, more)| merge(there, more))
        }
        (there, more) => *there = more.clone(),
    }
}

fn fault(device: &Device, FaultParams { action, spec, fault }: FaultParams) -> Result<Value, Error> {
    let wrong = |message: String| Error::new("bad-arguments", message);
    match (action, spec, fault) {
        (FaultAction::Add, Some(spec), None) => {
            Ok(json!({ "fault": device.faults().add(&spec).map_err(|error| wrong(error.to_string()))? }))
        }
        (FaultAction::List, None, None) => Ok(json!({ "faults": value(&device.faults().list())? })),
        (FaultAction::Clear, None, id) => {
            Ok(json!({ "cleared": device.faults().clear(id).map_err(|error| wrong(error.to_string()))? }))
        }
        _ => Err(wrong(
            "fault add needs a \"spec\"; fault clear accepts a \"fault\"; other arguments are not accepted".into(),
        )),
    }
}

fn trace(device: &Device, TraceParams { action, file }: TraceParams) -> Result<Value, Error> {
    let no_trace = || Error::new("no-trace", "no trace is being written; start one with trace on");
    let status = match (action, file) {
        (TraceAction::On, Some(file)) => {
            check_absolute(&file)?;
            device.start_trace(&file).map_err(|error| {
                Error::new("failed", format!("cannot write a trace to {}: {error}", file.display()))
            })?;
            device.observer().sync_trace()
        }
        (TraceAction::On, None) => return Err(Error::new("bad-arguments", "trace on needs a \"file\"")),
        (TraceAction::Off, None) => device.observer().stop_trace(),
        (TraceAction::Dump, None) => device.observer().sync_trace(),
        (_, Some(_)) => return Err(Error::new("bad-arguments", "only trace on takes a \"file\"")),
    };
    value(&status.ok_or_else(no_trace)?)
}

/// Paths must be absolute: a client does not know the device's working directory.
fn check_absolute(file: &Path) -> Result<(), Error> {
    if file.is_absolute() { Ok(()) } else { Err(Error::new("bad-arguments", "\"file\" must be an absolute path")) }
}

fn parse<T: DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, Error> {
    serde_json::from_value(Value::Object(arguments)).map_err(|error| Error::new("bad-arguments", error.to_string()))
}

fn value(result: &impl serde::Serialize) -> Result<Value, Error> {
    serde_json::to_value(result).map_err(|error| Error::new("failed", error.to_string()))
}

/// The reply to a line, without its line feed.
pub(super) fn answer(device: &Device, about: &Value, line: &[u8]) -> Value {
    let mut id = Value::Null;
    let result = request(line, &mut id).and_then(|(action, arguments)| action(device, about, arguments));
    reply(result, id)
}

pub(super) fn reply(result: Result<Value, Error>, id: Value) -> Value {
    let mut reply = match result {
        Ok(result) => json!({ "version": VERSION, "ok": true, "result": result }),
        Err(Error { code, message }) => {
            json!({ "version": VERSION, "ok": false, "error": { "code": code, "message": message } })
        }
    };
    if let (Value::Object(reply), false) = (&mut reply, id.is_null()) {
        reply.insert("id".into(), id);
    }
    reply
}

fn request(line: &[u8], id: &mut Value) -> Result<(Handler, Map<String, Value>), Error> {
    let mut request: Map<String, Value> = serde_json::from_slice(line)
        .map_err(|error| Error::new("bad-request", format!("not a JSON object: {error}")))?;
    *id = request.remove("id").unwrap_or(Value::Null);
    match request.remove("version") {
        None => {}
        Some(version) if version == VERSION => {}
        Some(version) => {
            return Err(Error::new(
                "bad-version",
                format!("version {version} is not supported; use version {VERSION}"),
            ));
        }
    }
    let Some(Value::String(name)) = request.remove("command") else {
        return Err(Error::new("bad-request", "the request has no \"command\""));
    };
    match COMMANDS.iter().find(|(command, _)| *command == name) {
        Some((_, action)) => Ok((*action, request)),
        None => {
            let names: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
            let message = format!("there is no command {name:?}; the commands are {}", names.join(", "));
            Err(Error::new("unknown-command", message))
        }
    }
}
