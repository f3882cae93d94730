// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A picture of all ratios: a bar for each contender, a group of bars for each load.

use super::contender::{Contender, Kind};
use super::results::{Results, Series};
use super::table::grouped;
use crate::measure::plot::{self, BLUE, Bar, Colour, GREY, Group, ORANGE, SAND};
use anyhow::Result;

/// The picture; `machine` goes under its title.
pub fn draw(results: &Results, baseline: &str, machine: &str) -> Result<String> {
    let bar = |series: &&Series| {
        let ratio = results.ratio(series, baseline).unwrap_or(0.0);
        Bar {
            label: series.contender.name.to_owned(),
            value: ratio,
            range: (ratio, ratio),
            text: format!("{ratio:.2}  ({})", absolute(series)),
            colour: colour(series.contender),
        }
    };
    let groups: Vec<Group> = grouped(results)
        .iter()
        .filter_map(|group| Some(Group { title: group.first()?.title(), bars: group.iter().map(bar).collect() }))
        .collect();
    let title = format!("vhost-user-blk-crypto and peers: ratio to {baseline}");
    Ok(plot::alone(&plot::overview(&title, machine, &groups, false)?))
}

fn colour(contender: &Contender) -> Colour {
    match (contender.kind, contender.unit) {
        (Kind::Ours { .. }, Some(_)) => ORANGE,
        (Kind::Ours { .. }, None) => SAND,
        (Kind::Engine, _) => GREY,
        (Kind::Qsd { .. }, _) => BLUE,
    }
}

fn absolute(series: &Series) -> String {
    if series.workload.is_throughput() {
        format!("{:.2} GB/s", series.median() * f64::from(series.workload.block) / 1e9)
    } else {
        format!("{:.1}k", series.median() / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;

    #[test]
    fn a_picture_has_a_bar_for_each_contender() {
        let results = results(&[
            ("randread-qd32", "qsd-uring", 100_000.0),
            ("randread-qd32", "ours+4096", 250_000.0),
            ("seqread-qd32", "qsd-uring", 10_000.0),
        ]);
        let text = super::draw(&results, "qsd-uring", "a machine").unwrap();
        assert!(text.contains("</svg>") && text.contains("ours+4096") && text.contains("2.50"));
        assert_eq!(text.matches("qsd-uring").count(), 3, "the title and two bars");
    }
}
