// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The plan of a run: which workloads, clients and contenders its level and its filters select.

use super::client::{Client, Program};
use super::contender::{self, Contender, Kind};
use super::workload::{self, Level, Task, Workload};
use crate::measure::takes;

/// Contenders that are compared with each other: the same load from the same client.
#[derive(Debug, Clone)]
pub struct Group {
    /// The load.
    pub workload: &'static Workload,
    /// The client.
    pub client: Client,
    /// The contenders.
    pub contenders: Vec<&'static Contender>,
}

/// The groups of a run, in the order of the report. They include the baseline wherever it can run and,
/// where key changes are measured, the load with one key: the ratios need both.
pub fn groups(level: Level, filters: &[String], baseline: &'static Contender) -> Vec<Group> {
    let wanted = |w: &Workload, c: &Contender| filters.is_empty() || filters.iter().any(|f| takes(f, w.name, c.name));
    let mut groups: Vec<Group> = vec![];
    for workload in workload::ALL.iter().filter(|w| w.level <= level) {
        for client in Client::ALL {
            if !takes_part(client, workload, level) {
                continue;
            }
            let contenders = contender::ALL
                .iter()
                .filter(|c| c.level <= level && c.can(workload) && client.can(workload, c) && wanted(workload, c));
            let mut contenders: Vec<_> = contenders.filter(|c| c.kind != Kind::Engine || !client.polling).collect();
            let is_churn = |w: &Workload| w.reference().is_some_and(|r| r.name == workload.name);
            for churn in workload::ALL.iter().filter(|w| w.level <= level && is_churn(w)) {
                contenders.extend(
                    contender::ALL
                        .iter()
                        .filter(|c| c.level <= level && c.can(churn) && client.can(churn, c) && wanted(churn, c)),
                );
            }
            let compares = workload.task == Task::Load && client.can(workload, baseline) && baseline.can(workload);
            if !contenders.is_empty() && compares {
                contenders.push(baseline);
            }
            let order = |c: &&Contender| contender::ALL.iter().position(|x| x.name == c.name);
            contenders.sort_by_key(order);
            contenders.dedup_by_key(|c| c.name);
            if !contenders.is_empty() {
                groups.push(Group { workload, client, contenders });
            }
        }
    }
    groups
}

/// Our client always; libblkio's where the two are compared; polling clients only with `--full`.
fn takes_part(client: Client, workload: &Workload, level: Level) -> bool {
    match client.program {
        Program::Load => true,
        Program::Blkio => workload.compare <= level && (!client.polling || level == Level::Full),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(level: Level, filters: &[&str]) -> Vec<Group> {
        let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
        groups(level, &filters, Contender::named("qsd-uring").unwrap())
    }

    #[test]
    fn levels_grow() {
        let count = |level| plan(level, &[]).iter().map(|g| g.contenders.len()).sum::<usize>();
        assert!(count(Level::Quick) < count(Level::Normal) && count(Level::Normal) < count(Level::Full));
    }

    #[test]
    fn every_load_has_the_baseline_once() {
        for group in plan(Level::Full, &["/ours"]) {
            let baselines = group.contenders.iter().filter(|c| c.name == "qsd-uring").count();
            assert_eq!(baselines, usize::from(group.workload.task == Task::Load), "{}", group.workload.name);
        }
    }

    #[test]
    fn filters_name_a_workload_a_contender_or_both() {
        let groups = plan(Level::Normal, &["randread-qd1/luks"]);
        assert!(groups.iter().all(|g| g.workload.name == "randread-qd1"));
        let names: Vec<_> = groups[0].contenders.iter().map(|c| c.name).collect();
        assert_eq!(names, ["qsd-uring", "qsd-luks"]);
        assert!(plan(Level::Normal, &["luks"]).len() > 5);
        assert!(plan(Level::Normal, &["nothing-like-it"]).is_empty());
    }

    #[test]
    fn key_changes_bring_the_load_with_one_key() {
        let groups = plan(Level::Quick, &["churn/ours+4096"]);
        let names: Vec<_> = groups.iter().filter(|g| !g.client.polling).map(|g| g.workload.name).collect();
        assert_eq!(names, ["randwrite-qd32", "churn-qd32"]);
        assert!(groups.iter().all(|g| g.contenders.iter().any(|c| c.name == "ours+4096")));
    }
}
