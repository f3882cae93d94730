// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `bench` and `compare` share: statistics, tables, charts, and the header of a report.

pub mod header;
pub mod plot;
pub mod statistics;
pub mod table;

/// Whether a filter matches a load on a target: `LOAD/TARGET`, each a part of a name, or one word for either. A
/// target's name may have a slash of its own.
pub fn takes(filter: &str, load: &str, target: &str) -> bool {
    let both = filter.split_once('/').is_some_and(|(l, t)| load.contains(l) && target.contains(t));
    both || load.contains(filter) || target.contains(filter)
}
