// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The plan of a run: which loads and targets the filters select.

use super::load::{self, Load};
use super::target::{self, Disk, Target};
use crate::measure::takes;

/// A load and its targets.
#[derive(Debug, Clone)]
pub struct Group {
    /// The load.
    pub load: &'static Load,
    /// Their positions in the plan.
    pub targets: Vec<usize>,
}

/// All of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Targets, in the order of the report.
    pub targets: Vec<Target>,
    /// Loads, in the order of the report.
    pub groups: Vec<Group>,
    /// Whether it is a quick run.
    pub quick: bool,
    /// Number of rounds.
    pub rounds: u32,
    /// Length of one measurement.
    pub seconds: f64,
    /// Size of the file that fio's loads use.
    pub file_mib: u64,
    /// Number of files to unpack, divided by 8.
    pub small_files: u32,
}

impl Plan {
    /// Makes the plan. Where a target is measured, its base is, too: the ratios need it.
    pub fn new(quick: bool, filters: &[String], rounds: Option<u32>, seconds: Option<f64>) -> Self {
        let all = target::all(quick);
        let wanted = |load: &Load, target: &Target| {
            filters.is_empty() || filters.iter().any(|f| takes(f, &load.name(), &target.name))
        };
        let mut groups: Vec<(&'static Load, Vec<&Target>)> = vec![];
        for load in load::all().filter(|l| !quick || l.is_quick()) {
            let able = || all.iter().filter(|t| t.kind == load.kind());
            let chosen: Vec<&Target> = able().filter(|t| wanted(load, t)).collect();
            let with_base = able().filter(|t| chosen.contains(t) || chosen.iter().any(|c| c.base() == t.name));
            groups.push((load, with_base.collect()));
        }
        groups.retain(|(_, targets)| !targets.is_empty());
        let used = |t: &Target| groups.iter().any(|(_, targets)| targets.contains(&t));
        let targets: Vec<Target> = all.iter().filter(|t| used(t)).cloned().collect();
        let groups = groups.iter().map(|(load, chosen)| Group {
            load,
            targets: (0..targets.len()).filter(|at| chosen.contains(&&targets[*at])).collect(),
        });
        Self {
            groups: groups.collect(),
            quick,
            rounds: rounds.unwrap_or(if quick { 2 } else { 3 }),
            seconds: seconds.unwrap_or(if quick { 0.8 } else { 1.5 }),
            file_mib: if quick { 48 } else { 128 },
            small_files: if quick { 32 } else { 64 },
            targets,
        }
    }

    /// The disks of the targets, each once.
    pub fn disks(&self) -> Vec<Disk> {
        let mut disks: Vec<Disk> = vec![];
        for target in &self.targets {
            if !disks.contains(&target.disk) {
                disks.push(target.disk);
            }
        }
        disks
    }

    /// Leaves out what lies behind a UFS host controller; returns the names.
    pub fn leave_out_ufs(&mut self) -> Vec<String> {
        // They come last: the positions of the others stay.
        let first = self.targets.iter().position(Target::is_ufs).unwrap_or(self.targets.len());
        self.groups.iter_mut().for_each(|group| group.targets.retain(|at| *at < first));
        self.targets.drain(first..).map(|target| target.name).collect()
    }

    /// The number of a target's partition on its disk, from 1.
    pub fn part(&self, target: &Target) -> usize {
        let before = self.targets.iter().take_while(|t| t.name != target.name);
        1 + before.filter(|t| t.disk == target.disk).count()
    }

    /// Files with a key each on the targets that need them.
    pub fn key_files(&self) -> u32 {
        let files = self.groups.iter().filter_map(|g| match g.load {
            Load::Churn { files, .. } => Some(*files),
            _ => None,
        });
        files.max().unwrap_or(0)
    }

    /// Whether a target has a load for which this holds.
    pub fn bears(&self, target: &Target, what: impl Fn(&Load) -> bool) -> bool {
        self.groups.iter().any(|g| what(g.load) && g.targets.iter().any(|t| self.targets[*t].name == target.name))
    }
}

/// The order of the targets in a round. No target always comes first, or always after the same one.
pub fn turn(targets: &[usize], round: u32) -> Vec<usize> {
    let mut order = targets.to_vec();
    if !order.is_empty() {
        order.rotate_left(round as usize % targets.len());
    }
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(quick: bool, filters: &[&str]) -> Plan {
        let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
        Plan::new(quick, &filters, None, None)
    }

    #[test]
    fn a_quick_run_is_a_part_of_the_whole() {
        let (quick, whole) = (plan(true, &[]), plan(false, &[]));
        let measurements =
            |plan: &Plan| plan.groups.iter().map(|g| g.targets.len()).sum::<usize>() * plan.rounds as usize;
        assert!(measurements(&quick) * 4 < measurements(&whole));
        assert!(quick.targets.iter().all(|t| whole.targets.contains(t)));
        assert_eq!(quick.disks().len(), 5);
        assert_eq!((quick.key_files(), whole.key_files()), (256, 4096));
    }

    #[test]
    fn filters_bring_what_is_compared_with() {
        let one = plan(false, &["seqread/dm-crypt"]);
        let names: Vec<&str> = one.targets.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["ext4/plain", "ext4/dm-crypt"]);
        assert_eq!(one.groups.len(), 1);
        let churn = plan(false, &["churn/32"]);
        assert!(churn.groups.iter().all(|g| g.load.is_churn()) && churn.groups.len() == 6);
        assert_eq!(churn.targets.len(), 2);
        assert!(plan(false, &["nothing-like-it"]).targets.is_empty());
        assert!(plan(false, &["f2fs/native"]).groups.len() > 5);
    }

    #[test]
    fn fronts_are_compared_with_each_other() {
        let mut plan = plan(false, &["qd16/ufs"]);
        let names: Vec<&str> = plan.targets.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["front/virtio", "front/ufs", "front/ufs-polls"]);
        assert_eq!((plan.groups.len(), plan.groups[0].targets.len()), (2, 3));
        assert_eq!(plan.leave_out_ufs(), ["front/ufs", "front/ufs-polls"]);
        assert_eq!((plan.targets.len(), &plan.groups[1].targets), (1, &vec![0]));
    }

    #[test]
    fn parts_of_a_disk() {
        let plan = plan(false, &[]);
        let part = |name: &str| plan.part(plan.targets.iter().find(|t| t.name == name).unwrap());
        assert_eq!((part("ext4/plain"), part("ext4/native"), part("ext4/fallback")), (1, 2, 1));
        assert_eq!((part("churn/16"), part("churn/fallback")), (1, 3));
    }

    #[test]
    fn turns() {
        assert_eq!(turn(&[1, 2, 3], 0), [1, 2, 3]);
        assert_eq!(turn(&[1, 2, 3], 1), [1, 3, 2]);
        assert_eq!(turn(&[1, 2, 3], 2), [3, 1, 2]);
        assert!(turn(&[], 3).is_empty());
    }
}
