// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs the measurements: checks every contender once, then measures in rounds.

use super::client::{Call, Client, Measured, Program};
use super::contender::{Contender, Disk, Kind};
use super::cpus::{self, Cpus};
use super::image::{Images, Place};
use super::plan::Group;
use super::results::Results;
use super::server::Servers;
use super::workload::{self, Task, Workload};
use crate::process::{command, output};
use crate::progress::Progress;
use anyhow::{Context, Result};
use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

/// All that a run needs.
pub struct Bench<'a> {
    /// Starts servers.
    pub servers: Servers<'a>,
    /// Our client's program.
    pub load: &'a Path,
    /// The libblkio client's program.
    pub blkio: &'a Path,
    /// The cores.
    pub cpus: Cpus,
    /// Length of one measurement.
    pub seconds: f64,
    /// Number of rounds.
    pub rounds: u32,
}

impl Bench<'_> {
    /// Measures all groups on one pair of images.
    pub fn run(&self, images: &Images, groups: &[Group], results: &mut Results) {
        let mut able = self.able(images, groups, results);
        let engine_here = images.place == Place::Tmpfs;
        let takes_part = |c: &Contender, able: &HashSet<&str>| {
            able.contains(c.name) && (engine_here || c.has_image() || c.name == "qsd-null")
        };
        let total = groups.iter().flat_map(|g| &g.contenders).filter(|c| takes_part(c, &able)).count();
        let mut progress = Progress::new(total * self.rounds as usize);
        for round in 0..self.rounds {
            for group in groups {
                let mut order = group.contenders.clone();
                // So that no contender always runs after the same one.
                if round % 2 == 1 {
                    order.reverse();
                }
                for contender in order {
                    if !takes_part(contender, &able) {
                        continue;
                    }
                    show(&mut progress, round + 1, self.rounds, images.place, group, contender);
                    match self.measure(contender, images, group.workload, group.client) {
                        Ok(measured) => results.add(images.place, group.workload, group.client, contender, measured),
                        Err(error) => {
                            let what = format!(
                                "{} on {}, {}, {}: {error:#}",
                                contender.name,
                                images.place.name(),
                                group.workload.name,
                                group.client.name()
                            );
                            progress.print(&format!("FAILED: {what}"));
                            results.failed.push(what);
                            able.remove(contender.name);
                        }
                    }
                    progress.next();
                }
            }
        }
    }

    /// Starts every contender once, writes and reads. Reports which ones cannot run, and why.
    fn able(&self, images: &Images, groups: &[Group], results: &mut Results) -> HashSet<&'static str> {
        let mut able = HashSet::new();
        let mut seen = HashSet::new();
        for contender in groups.iter().flat_map(|g| &g.contenders) {
            if !seen.insert(contender.name) {
                continue;
            }
            match self.verify(contender, images) {
                Ok(()) => drop(able.insert(contender.name)),
                // A peer may lack what it needs on this machine.
                Err(error) if matches!(contender.kind, Kind::Qsd { .. }) => {
                    results.not_run.push((images.place, contender.name, format!("{error:#}")));
                }
                Err(error) => {
                    let what = format!("{} on {}: {error:#}", contender.name, images.place.name());
                    eprintln!("FAILED: {what}");
                    results.failed.push(what);
                }
            }
        }
        able
    }

    fn verify(&self, contender: &Contender, images: &Images) -> Result<()> {
        if contender.kind == Kind::Engine {
            return Ok(());
        }
        let server = self.servers.start(contender, images)?;
        if !matches!(contender.kind, Kind::Qsd { disk: Disk::Null, .. }) {
            // Any workload will do: only the data unit size matters.
            let workload = workload::ALL.first().context("no workloads")?;
            let call = Call {
                workload,
                unit: contender.unit,
                key_in_request: contender.has_keys_in_requests(),
                polling: false,
                seconds: 0.0,
            };
            let mut client = self.client(Program::Load);
            call.verify(&mut client, &server.socket);
            output(&mut client).with_context(|| format!("it does not work: {}", server.last_words()))?;
        }
        server.finish()
    }

    fn measure(
        &self,
        contender: &Contender,
        images: &Images,
        workload: &'static Workload,
        client: Client,
    ) -> Result<Measured> {
        let call = Call {
            workload,
            unit: contender.unit,
            key_in_request: contender.has_keys_in_requests(),
            polling: client.polling,
            seconds: self.seconds,
        };
        if contender.kind == Kind::Engine {
            let mut program = command(self.load);
            // Where the device's engine runs.
            cpus::pin(&mut program, self.cpus.server);
            call.engine(&mut program);
            return Measured::parse(&output(&mut program)?);
        }
        let server = self.servers.start(contender, images)?;
        if matches!(contender.kind, Kind::Ours { memory: true, .. }) {
            // A fresh process has not touched its memory disk yet.
            let mut fill = self.client(Program::Load);
            Call::fill(&mut fill, &server.socket);
            output(&mut fill).with_context(|| format!("the server says: {}", server.last_words()))?;
        }
        let mut program = self.client(client.program);
        call.device(&mut program, &server.socket, server.pid);
        let text = output(&mut program).with_context(|| format!("the server says: {}", server.last_words()))?;
        server.finish()?;
        Measured::parse(&text)
    }

    fn client(&self, program: Program) -> Command {
        let mut command = match program {
            Program::Load => command(self.load),
            Program::Blkio => self.servers.root.command(self.blkio),
        };
        cpus::pin(&mut command, self.cpus.client);
        command
    }
}

fn show(progress: &mut Progress, round: u32, rounds: u32, place: Place, group: &Group, contender: &Contender) {
    let churn = if group.workload.task == Task::Load { "" } else { " (keys)" };
    let (workload, client) = (group.workload.name, group.client.name());
    let (place, contender) = (place.name(), contender.name);
    progress.begin(format!("round {round}/{rounds}, {place}, {workload}{churn}, {contender}, {client}"));
}
