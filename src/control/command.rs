// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From a line to a reply.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Controlled, VERSION};
use crate::observe::prometheus;

/// Why a request was not done: a code for programs, words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// One of those in `docs/control.md`.
    pub code: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Error {
    /// An error.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What a command does with its arguments.
type Action = fn(&dyn Controlled, &Value, Map<String, Value>) -> Result<Value, Error>;

/// All commands. Another one needs a line here, a function, and words in `docs/control.md`.
pub const COMMANDS: &[(&str, Action)] = &[
    ("status", |device, about, arguments| {
        let Nothing {} = parse(arguments)?;
        let mut status = value(&device.status())?;
        // What the program knows and the device does not: its version, options, the image's path.
        if let (Value::Object(status), Value::Object(about)) = (&mut status, about) {
            about.iter().for_each(|(name, more)| match (status.get_mut(name), more) {
                (Some(Value::Object(there)), Value::Object(more)) => there.extend(more.clone()),
                _ => drop(status.insert(name.clone(), more.clone())),
            });
        }
        Ok(status)
    }),
    ("stats", |device, _, arguments| {
        let Stats { format } = parse(arguments)?;
        let stats = device.stats();
        match format {
            Format::Json => value(&stats),
            Format::Prometheus => Ok(json!({ "text": prometheus::text(&stats) })),
        }
    }),
    ("keyslots", |device, _, arguments| {
        let Keyslots { all } = parse(arguments)?;
        let mut slots = device.keyslots();
        slots.retain(|slot| all || slot.key.is_some());
        Ok(json!({ "keyslots": value(&slots)? }))
    }),
    ("latency", |device, _, arguments| {
        let Switch { on } = parse(arguments)?;
        device.set_latency(on);
        Ok(json!({ "on": on }))
    }),
    ("trace", |device, _, arguments| trace(device, parse(arguments)?)),
    ("fault", |device, _, arguments| fault(device, parse(arguments)?)),
    ("reset-engine", |device, _, arguments| {
        let Nothing {} = parse(arguments)?;
        Ok(json!({ "lost_keys": device.reset_engine() }))
    }),
    ("resize", |device, _, arguments| {
        let Resize { bytes } = parse(arguments)?;
        value(&device.resize(bytes).map_err(|message| Error::new("failed", message))?)
    }),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stats {
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
struct Keyslots {
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    on: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
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
struct Fault {
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

fn fault(device: &dyn Controlled, Fault { action, spec, fault }: Fault) -> Result<Value, Error> {
    let wrong = |message: String| Error::new("bad-arguments", message);
    match (action, spec, fault) {
        (FaultAction::Add, Some(spec), None) => Ok(json!({ "fault": device.add_fault(&spec).map_err(wrong)? })),
        (FaultAction::List, None, None) => Ok(json!({ "faults": value(&device.faults())? })),
        (FaultAction::Clear, None, id) => Ok(json!({ "cleared": device.clear_faults(id).map_err(wrong)? })),
        _ => Err(wrong("fault add takes a \"spec\", fault clear may take a \"fault\", nothing takes both".into())),
    }
}

fn trace(device: &dyn Controlled, Trace { action, file }: Trace) -> Result<Value, Error> {
    let no_trace = || Error::new("no-trace", "no trace is being written; start one with trace on");
    let status = match (action, file) {
        (TraceAction::On, Some(file)) => {
            check_absolute(&file)?;
            device.start_trace(&file).map_err(|error| {
                Error::new("failed", format!("cannot write a trace to {}: {error}", file.display()))
            })?;
            device.sync_trace()
        }
        (TraceAction::On, None) => return Err(Error::new("bad-arguments", "trace on needs a \"file\"")),
        (TraceAction::Off, None) => device.stop_trace(),
        (TraceAction::Dump, None) => device.sync_trace(),
        (_, Some(_)) => return Err(Error::new("bad-arguments", "only trace on takes a \"file\"")),
    };
    value(&status.ok_or_else(no_trace)?)
}

/// The device's working directory is none of the client's business.
fn check_absolute(file: &Path) -> Result<(), Error> {
    if file.is_absolute() { Ok(()) } else { Err(Error::new("bad-arguments", "\"file\" is not an absolute path")) }
}

fn parse<T: DeserializeOwned>(arguments: Map<String, Value>) -> Result<T, Error> {
    serde_json::from_value(Value::Object(arguments)).map_err(|error| Error::new("bad-arguments", error.to_string()))
}

fn value(result: &impl serde::Serialize) -> Result<Value, Error> {
    serde_json::to_value(result).map_err(|error| Error::new("failed", error.to_string()))
}

/// The reply to a line, without its line feed.
pub(super) fn answer(device: &dyn Controlled, about: &Value, line: &[u8]) -> Value {
    let mut id = Value::Null;
    let result = request(line, &mut id).and_then(|(action, arguments)| action(device, about, arguments));
    reply(result, id)
}

/// A reply.
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

fn request(line: &[u8], id: &mut Value) -> Result<(Action, Map<String, Value>), Error> {
    let mut request: Map<String, Value> = serde_json::from_slice(line)
        .map_err(|error| Error::new("bad-request", format!("not a JSON object: {error}")))?;
    *id = request.remove("id").unwrap_or(Value::Null);
    match request.remove("version") {
        None => {}
        Some(version) if version == VERSION => {}
        Some(version) => {
            return Err(Error::new(
                "bad-version",
                format!("version {version} is not served; this is version {VERSION}"),
            ));
        }
    }
    let Some(Value::String(name)) = request.remove("command") else {
        return Err(Error::new("bad-request", "there is no \"command\""));
    };
    match COMMANDS.iter().find(|(command, _)| *command == name) {
        Some((_, action)) => Ok((*action, request)),
        None => {
            let names: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
            let message = format!("there is no command {name:?}; there are {}", names.join(", "));
            Err(Error::new("unknown-command", message))
        }
    }
}
