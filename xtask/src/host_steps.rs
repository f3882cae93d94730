// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the host does to the device or its image while a guest runs, when the guest asks for it.
//!
//! The guest writes a line to its port `progress` for each step.

use crate::case::parse_size;
use crate::device::{Device, Options};
use crate::guest_memory;
use crate::process::{command, open_log};
use crate::qemu_steps::QemuStep;
use crate::qmp::Monitor;
use crate::vm::Vm;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One step, from a case's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    action: Action,
    /// It must fail.
    fails: bool,
    /// What its output must contain.
    says: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// Words for the device's `ctl`.
    Ctl(Vec<String>),
    /// Changes the image's size.
    Image(u64),
    /// Sends the device SIGHUP.
    Hangup,
    /// Writes invalid elements to the used ring that the guest names.
    BreakRing,
    /// Goes through QEMU's monitor.
    Qemu(QemuStep),
}

impl Step {
    /// Whether it is done through QEMU's monitor.
    pub fn needs_monitor(&self) -> bool {
        matches!(self.action, Action::Qemu(_))
    }
}

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (text, says) = match text.split_once("=>") {
            Some((text, says)) => (text.trim(), Some(says.trim().to_owned())),
            None => (text, None),
        };
        let (text, fails) = text.strip_prefix("fails ").map_or((text, false), |text| (text, true));
        let words: Vec<_> = text.split_whitespace().collect();
        let action = match words.as_slice() {
            ["ctl", words @ ..] if !words.is_empty() => Action::Ctl(words.iter().map(ToString::to_string).collect()),
            ["image", size] => Action::Image(parse_size(size)?),
            ["hangup"] => Action::Hangup,
            ["break-ring"] => Action::BreakRing,
            words => match QemuStep::parse(words)? {
                Some(step) => Action::Qemu(step),
                None => bail!("a step is ctl WORDS, image SIZE, hangup, break-ring, {}", QemuStep::FORMS),
            },
        };
        ensure!(matches!(action, Action::Ctl(_)) || !fails && says.is_none(), "`fails` and `=>` are for ctl only");
        Ok(Self { action, fails, says })
    }
}

/// A case's steps.
pub struct HostSteps<'a> {
    steps: &'a [Step],
    options: Options<'a>,
    /// The device's control socket.
    control: PathBuf,
    /// What the guest writes to its port.
    signal: &'a Path,
    log: PathBuf,
    vm: &'a Vm<'a>,
    monitor: Option<Monitor>,
    done: usize,
}

/// The device's options for its control socket.
pub fn control_options(control: &Path) -> Vec<String> {
    vec!["--control".into(), control.display().to_string()]
}

impl<'a> HostSteps<'a> {
    /// `log`: where the output of the steps goes.
    pub fn new(
        steps: &'a [Step],
        options: Options<'a>,
        control: PathBuf,
        vm: &'a Vm,
        signal: &'a Path,
        log: PathBuf,
    ) -> Self {
        Self { steps, options, control, signal, log, vm, monitor: None, done: 0 }
    }

    /// Does the next step if the guest has asked for it; `qemu` is QEMU's process ID. Call it often.
    pub fn step(&mut self, device: &Device, qemu: u32) -> Result<()> {
        if self.steps.is_empty() {
            // The port may be for something else.
            return Ok(());
        }
        let asked = fs::read_to_string(self.signal).unwrap_or_default();
        for line in asked.split_inclusive('\n').filter(|line| line.ends_with('\n')).skip(self.done) {
            let step = self.steps.get(self.done).context("the guest asks the host for more steps than there are")?;
            self.done += 1;
            self.act(step, device, qemu, line).with_context(|| format!("step {} on the host", self.done))?;
        }
        Ok(())
    }

    /// Fails unless all steps happened before the guest ended.
    pub fn finish(&self) -> Result<()> {
        let all = self.steps.len();
        ensure!(self.done == all, "the guest ended after {} of {all} steps on the host", self.done);
        Ok(())
    }

    fn act(&mut self, step: &Step, device: &Device, qemu: u32, line: &str) -> Result<()> {
        match &step.action {
            Action::Qemu(step) => {
                let monitor = match self.monitor.take() {
                    Some(monitor) => monitor,
                    None => Monitor::open(self.vm.monitor.context("QEMU has no monitor")?)?,
                };
                step.act(self.monitor.insert(monitor), self.vm)?;
            }
            Action::Image(bytes) => fs::File::options().write(true).open(self.options.image)?.set_len(*bytes)?,
            Action::Hangup => device.hang_up()?,
            Action::BreakRing => guest_memory::break_ring(qemu, line)?,
            Action::Ctl(words) => {
                let mut ctl = command(self.options.program);
                ctl.arg("ctl").arg("--control").arg(&self.control).args(words);
                let out = ctl.output().context("cannot run the device's ctl")?;
                let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
                write!(open_log(&self.log)?, "ctl {}\n{text}", words.join(" "))?;
                ensure!(out.status.success() != step.fails, "ctl ended with {}: {text}", out.status);
                if let Some(says) = &step.says {
                    ensure!(text.contains(says), "ctl does not say {says:?}, but: {text}");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let step: Step = "fails ctl resize 64M => a frontend is connected".parse().unwrap();
        assert_eq!(step.action, Action::Ctl(vec!["resize".into(), "64M".into()]));
        assert!(step.fails && step.says.as_deref() == Some("a frontend is connected"));
        assert_eq!("image 1M".parse::<Step>().unwrap().action, Action::Image(1 << 20));
        assert_eq!("hangup".parse::<Step>().unwrap().action, Action::Hangup);
        let pause: Step = "pause 3".parse().unwrap();
        assert!(pause.needs_monitor() && !step.needs_monitor());
        let mistakes = [
            "",
            "ctl",
            "image",
            "image big",
            "hangup now",
            "break-ring 0",
            "fails hangup",
            "image 1M => x",
            "pause",
            "reboot",
        ];
        for text in mistakes {
            assert!(text.parse::<Step>().is_err(), "{text}");
        }
    }
}
