// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Killing the device while a guest runs, and starting it again.
//!
//! The guest says when to begin, on its port `progress`, by the text that must never be on the image. It knows by the disk's serial number which device is there:
//! `kill-0` the first one, `kill-1` the next, and so on.

use crate::device::{Device, Options};
use crate::{process, verify};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// The shortest and the longest time from one start to the next kill. QEMU tries to reconnect every
/// [`RECONNECT_MS`], so some devices are killed before they have been used.
const PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(2500)];

/// How often QEMU tries to reconnect.
pub const RECONNECT_MS: u32 = 200;

/// The options of the device that is started after this many kills.
pub fn options_after(kills: u32, others: &[String]) -> Vec<String> {
    [others, &["--serial".into(), format!("kill-{kills}")]].concat()
}

/// A case's kills.
pub struct Kills<'a> {
    options: Options<'a>,
    others: &'a [String],
    /// What the guest writes to its port.
    signal: &'a Path,
    wanted: u32,
    /// How many times as long the guest takes for the same as an ordinary one.
    slowness: u32,
    done: u32,
    next: Option<Instant>,
    /// The verifier's program, and the directory for its log.
    verifier: (&'a Path, &'a Path),
    /// What must never be on the image.
    sentinel: String,
}

impl<'a> Kills<'a> {
    /// `others`: the device's options without the serial number.
    pub fn new(
        wanted: u32,
        options: Options<'a>,
        others: &'a [String],
        signal: &'a Path,
        slowness: u32,
        verifier: (&'a Path, &'a Path),
    ) -> Self {
        Self { options, others, signal, wanted, slowness, done: 0, next: None, verifier, sentinel: String::new() }
    }

    /// Kills the device when the next kill is due. Call it often.
    pub fn step(&mut self, device: &mut Device) -> Result<()> {
        if self.done == self.wanted {
            return Ok(());
        }
        match self.next {
            None => {
                let text = process::text(self.signal);
                if let Some((sentinel, _)) = text.split_once('\n') {
                    self.sentinel = sentinel.to_owned();
                    self.next = Some(self.next_kill());
                }
            }
            Some(moment) if Instant::now() >= moment => {
                self.done += 1;
                let extra = options_after(self.done, self.others);
                device.kill()?;
                // Requests in flight will be sent again: what the killed device has written of them is on the image only now.
                let (program, dir) = self.verifier;
                verify::search(program, self.options.image, &self.sentinel, dir)
                    .with_context(|| format!("after kill {}", self.done))?;
                device.start_again(&Options { extra: &extra, ..self.options })?;
                self.next = Some(self.next_kill());
            }
            _ => {}
        }
        Ok(())
    }

    /// When the next kill is due.
    fn next_kill(&self) -> Instant {
        Instant::now() + (PAUSE[0] + (PAUSE[1] - PAUSE[0]).mul_f64(fastrand::f64())) * self.slowness
    }

    /// Fails unless all kills happened before the guest ended.
    pub fn finish(&self) -> Result<()> {
        ensure!(self.done == self.wanted, "the guest ended after {} of {} kills", self.done, self.wanted);
        Ok(())
    }
}
