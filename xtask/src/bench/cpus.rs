// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One core for the server and another for the client.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Where the two programs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    /// The server's core, when pinning works.
    pub server: Option<usize>,
    /// The client's.
    pub client: Option<usize>,
}

/// Chooses two cores that this process may use; the text warns of what distorts results.
pub fn choose() -> (Cpus, Option<String>) {
    let none = Cpus { server: None, client: None };
    let Ok(allowed) = sched_getaffinity(None) else {
        return (none, Some("this system cannot pin programs to cores: results vary more".into()));
    };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let Some((server, client, apart)) = pick(&cpus, siblings) else {
        return (none, Some("there is only one core: server and client share it, which distorts all results".into()));
    };
    let note =
        (!apart).then(|| format!("cores {server} and {client} are two threads of one core and slow each other down"));
    (Cpus { server: Some(server), client: Some(client) }, note)
}

/// The first core and the first one that is not its hyperthread, if there is one.
fn pick(cpus: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> Option<(usize, usize, bool)> {
    let server = *cpus.first()?;
    let close = siblings(server);
    let others = cpus.iter().copied().filter(|cpu| *cpu != server);
    match others.clone().find(|cpu| !close.contains(cpu)) {
        Some(client) => Some((server, client, true)),
        None => Some((server, others.min()?, false)),
    }
}

fn siblings(cpu: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    parse_list(fs::read_to_string(path).unwrap_or_default().trim())
}

/// Parses the kernel's lists of numbers, such as `0,4-6`.
fn parse_list(text: &str) -> Vec<usize> {
    text.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

/// Makes a command run on one core, with all of its threads.
pub fn pin(command: &mut Command, cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut set = CpuSet::new();
    set.set(cpu);
    // SAFETY: the closure only makes one system call, on memory of its own.
    unsafe {
        command.pre_exec(move || sched_setaffinity(None, &set).map_err(std::io::Error::from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse_list("0,4-6"), [0, 4, 5, 6]);
        assert_eq!(parse_list("3"), [3]);
        assert!(parse_list("").is_empty());
    }

    #[test]
    fn hyperthreads_are_avoided() {
        let pairs = |cpu: usize| vec![cpu & !1, cpu | 1];
        assert_eq!(pick(&[0, 1, 2, 3], pairs), Some((0, 2, true)));
        assert_eq!(pick(&[2, 3], pairs), Some((2, 3, false)));
        assert_eq!(pick(&[1], pairs), None);
        assert_eq!(pick(&[], pairs), None);
    }
}
