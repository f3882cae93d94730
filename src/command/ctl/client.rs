// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A connection to a control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use vhost_user_blk_crypto::control::VERSION;

/// How long to wait for a reply: an engine reset waits for requests in flight.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct ControlClient {
    stream: BufReader<UnixStream>,
}

impl ControlClient {
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("no device answers at {}; was it started with --control?", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request and returns the result in its reply.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        let mut request = request.clone();
        request["version"] = VERSION.into();
        // A device that refuses this client sends the reason and may close the connection before this request. If it sends
        // none, the end of the connection says more than this error, which looks like that of a closed output.
        let _ = self.stream.get_mut().write_all(format!("{request}\n").as_bytes());
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).context("the device does not answer")?;
        if read == 0 {
            bail!("the device has closed the connection");
        }
        let mut reply: Value = serde_json::from_str(&line).context("the device's answer is not JSON")?;
        if reply["ok"] != true {
            bail!("the device says: {}", reply["error"]["message"].as_str().unwrap_or("nothing"));
        }
        Ok(reply["result"].take())
    }
}
