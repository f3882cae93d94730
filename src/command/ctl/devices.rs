// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Samples of one or more devices, and what has changed between two of them.

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::client::ControlClient;
use super::text::{list, number};

/// The groups of `stats` whose numbers only rise.
const COUNTERS: &[&str] =
    &["requests", "bytes", "data_units", "digests", "keyslots", "request_keys", "wrapped_keys", "events"];

/// One sample.
#[derive(Clone)]
pub struct Look {
    at: Instant,
    pub stats: Value,
    pub keyslots: Value,
}

impl Look {
    fn take(client: &mut ControlClient) -> Result<Self> {
        let stats = client.ask(&json!({ "command": "stats" }))?;
        let keyslots = client.ask(&json!({ "command": "keyslots" }))?;
        Ok(Self { at: Instant::now(), stats, keyslots })
    }
}

/// Two samples of a device.
pub struct Change {
    /// Its control socket.
    pub control: PathBuf,
    pub before: Look,
    pub now: Look,
    /// The time between them.
    pub seconds: f64,
}

impl Change {
    /// The counters per second, in the groups of `stats`.
    pub fn rates(&self) -> Value {
        let rate = |group: &str, (name, count): (&String, &Value)| {
            let risen = number(count).saturating_sub(number(&self.before.stats[group][name]));
            (name.clone(), json!(risen as f64 / self.seconds))
        };
        let group = |&group: &&str| {
            let counters = self.now.stats[group].as_object()?;
            Some(((*group).to_owned(), Value::Object(counters.iter().map(|counter| rate(group, counter)).collect())))
        };
        Value::Object(COUNTERS.iter().filter_map(group).collect::<Map<_, _>>())
    }

    /// A counter of all queues per second.
    pub fn queue_rate(&self, name: &str) -> f64 {
        let all = |look: &Look| list(&look.stats["queues"]).map(|queue| sum(queue, name)).sum::<u64>();
        all(&self.now).saturating_sub(all(&self.before)) as f64 / self.seconds
    }
}

/// A counter of a queue, all types together.
pub fn sum(queue: &Value, name: &str) -> u64 {
    let types = queue["types"].as_object().into_iter().flat_map(|types| types.values());
    types.map(|counters| number(&counters[name])).sum()
}

/// The devices to look at. In a directory they come and go.
pub struct Devices<'a> {
    paths: &'a [PathBuf],
    known: BTreeMap<PathBuf, (ControlClient, Look)>,
}

impl<'a> Devices<'a> {
    pub fn new(paths: &'a [PathBuf]) -> Self {
        Self { paths, known: BTreeMap::new() }
    }

    /// Whether the user has named one device, and not a directory.
    pub fn is_one(&self) -> bool {
        matches!(self.paths, [path] if !path.is_dir())
    }

    /// Looks at all devices. Returns those that were there at the last look, too.
    ///
    /// # Errors
    /// When the only device does not answer. Of several, those that do not answer are left out until they do again.
    pub fn look(&mut self) -> Result<Vec<Change>> {
        let mut known = std::mem::take(&mut self.known);
        let mut changes = Vec::new();
        for control in self.sockets()? {
            let (client, before) = known.remove(&control).unzip();
            let look = client.map_or_else(|| ControlClient::connect(&control), Ok).and_then(|mut client| {
                let now = Look::take(&mut client)?;
                Ok((client, now))
            });
            match look {
                Ok((client, now)) => {
                    self.known.insert(control.clone(), (client, now.clone()));
                    if let Some(before) = before {
                        let seconds = now.at.duration_since(before.at).as_secs_f64().max(1e-3);
                        changes.push(Change { control, before, now, seconds });
                    }
                }
                Err(error) if self.is_one() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(changes)
    }

    fn sockets(&self) -> Result<Vec<PathBuf>> {
        let mut sockets = Vec::new();
        for path in self.paths {
            if path.is_dir() {
                let entries = path.read_dir().with_context(|| format!("cannot read {}", path.display()))?;
                let mut found: Vec<_> =
                    entries.flatten().map(|entry| entry.path()).filter(|it| is_control(it)).collect();
                found.sort();
                sockets.append(&mut found);
            } else {
                sockets.push(path.clone());
            }
        }
        Ok(sockets)
    }
}

/// The name decides. To connect and go would end a device with --exit-on-disconnect, if this were its socket for frontends.
fn is_control(path: &Path) -> bool {
    let named = path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("control"));
    named && path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}
