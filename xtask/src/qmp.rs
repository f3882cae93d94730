// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU's monitor (QMP): one JSON object a line in each direction.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to a monitor.
pub struct Monitor {
    stream: BufReader<UnixStream>,
    /// Events that arrived before an answer.
    events: Vec<Value>,
}

impl Monitor {
    /// How long QEMU may take for an answer. It gives none while a device keeps it waiting.
    pub const PATIENCE: Duration = Duration::from_secs(10);

    /// Connects to the monitor at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).context("cannot connect to QEMU's monitor")?;
        let mut monitor = Self { stream: BufReader::new(stream), events: vec![] };
        let greeting = monitor.line(Instant::now() + Self::PATIENCE)?;
        ensure!(greeting.get("QMP").is_some(), "the monitor's greeting is {greeting}");
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Executes a command and returns QEMU's answer.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({"execute": command, "arguments": arguments});
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let end = Instant::now() + Self::PATIENCE;
        loop {
            let mut answer = self.line(end).with_context(|| format!("QEMU's monitor does not answer {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {}", error["desc"].as_str().unwrap_or_default());
            }
            match answer.get_mut("return") {
                Some(value) => return Ok(value.take()),
                None => self.events.push(answer),
            }
        }
    }

    /// Waits until this event has come for this device.
    pub fn wait_for(&mut self, event: &str, device: &str, limit: Duration) -> Result<()> {
        let wanted = |found: &Value| found["event"] == event && found["data"]["device"] == device;
        let end = Instant::now() + limit;
        while !self.events.iter().any(wanted) {
            let next = self.line(end).with_context(|| format!("no {event} of {device}"))?;
            self.events.push(next);
        }
        self.events.clear();
        Ok(())
    }

    fn line(&mut self, end: Instant) -> Result<Value> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.get_mut().set_read_timeout(Some(left))?;
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => bail!("QEMU has closed its monitor"),
            Ok(_) => serde_json::from_str(&line).with_context(|| format!("the monitor says {line:?}")),
            Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("nothing came in time"),
            Err(error) => Err(error).context("cannot read from QEMU's monitor"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// A monitor that answers each command with these lines, whatever it is.
    fn connected(answers: &'static [&'static str]) -> Result<Monitor> {
        let scratch = tempfile::tempdir()?;
        let path = scratch.path().join("monitor");
        let listener = UnixListener::bind(&path)?;
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            writeln!(stream.get_mut(), "{}", json!({"QMP": {}})).unwrap();
            for answer in [&[r#"{"return": {}}"#], answers].concat() {
                let mut command = String::new();
                stream.read_line(&mut command).unwrap();
                assert!(serde_json::from_str::<Value>(&command).unwrap()["execute"].is_string());
                writeln!(stream.get_mut(), "{answer}").unwrap();
            }
        });
        Monitor::open(&path)
    }

    #[test]
    fn answers_events_and_errors() {
        let mut monitor = connected(&[
            "{\"event\": \"STOP\"}\n{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"disk0\"}}\n{\"return\": 7}",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"it is busy\"}}",
        ])
        .unwrap();
        assert_eq!(monitor.execute("device_del", &json!({"id": "disk0"})).unwrap(), 7);
        assert!(monitor.wait_for("DEVICE_DELETED", "disk1", Duration::from_millis(10)).is_err());
        monitor.wait_for("DEVICE_DELETED", "disk0", Duration::ZERO).unwrap();
        let error = monitor.execute("cont", &json!({})).unwrap_err();
        assert!(error.to_string().ends_with("it is busy"), "{error}");
        assert!(monitor.execute("stop", &json!({})).is_err(), "the monitor has gone");
    }
}
