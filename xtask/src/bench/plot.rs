// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A picture of all ratios: a bar for each contender, a chart for each load.

use super::contender::{Contender, Kind};
use super::results::{Results, Series};
use super::table::grouped;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

const WIDTH: i32 = 900;
const LEFT: i32 = 190;
const RIGHT: i32 = 110;
const BAR: i32 = 18;
const TITLE: i32 = 30;
const TOP: i32 = 60;

/// Writes the picture; `machine` goes under its title.
pub fn write(results: &Results, baseline: &str, machine: &str, path: &Path) -> Result<()> {
    let groups = grouped(results);
    let height: i32 = TOP + groups.iter().map(|g| TITLE + BAR * g.len() as i32 + 14).sum::<i32>();
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let title = format!("vhost-user-blk-crypto and peers: ratio to {baseline}");
        area.draw(&Text::new(title, (12, 12), ("sans-serif", 18)))?;
        area.draw(&Text::new(machine.to_owned(), (12, 36), ("sans-serif", 12).into_font().color(&GREY)))?;
        let mut y = TOP;
        for group in &groups {
            let Some(first) = group.first() else { continue };
            let title = format!("{} · {} · {}", first.workload.title, first.place.name(), first.client.name());
            area.draw(&Text::new(title, (12, y + 8), ("sans-serif", 14)))?;
            y += TITLE;
            let ratio = |s: &Series| results.ratio(s, baseline).unwrap_or(0.0);
            let largest = group.iter().map(|s| ratio(s)).fold(1.0, f64::max);
            let scale = f64::from(WIDTH - LEFT - RIGHT) / largest;
            let bottom = y + BAR * group.len() as i32;
            let one = LEFT + scale as i32;
            area.draw(&PathElement::new([(one, y), (one, bottom)], GREY))?;
            for series in group {
                let value = ratio(series);
                let right = LEFT + (value * scale) as i32;
                area.draw(&Rectangle::new([(LEFT, y + 2), (right, y + BAR - 2)], colour(series.contender).filled()))?;
                let middle = y + BAR / 2;
                let label = ("sans-serif", 12).into_font().color(&BLACK);
                let before = label.pos(Pos::new(HPos::Right, VPos::Center));
                area.draw(&Text::new(series.contender.name, (LEFT - 8, middle), before))?;
                let after = label.pos(Pos::new(HPos::Left, VPos::Center));
                area.draw(&Text::new(format!("{value:.2}  ({})", absolute(series)), (right + 6, middle), after))?;
                y += BAR;
            }
            y += 14;
        }
        area.present()?;
        Ok(())
    };
    draw().map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

const GREY: RGBColor = RGBColor(110, 110, 110);

fn colour(contender: &Contender) -> RGBColor {
    match (contender.kind, contender.unit) {
        (Kind::Ours { .. }, Some(_)) => RGBColor(200, 80, 30),
        (Kind::Ours { .. }, None) => RGBColor(235, 165, 100),
        (Kind::Engine, _) => RGBColor(200, 200, 200),
        (Kind::Qsd { .. }, _) => RGBColor(90, 130, 180),
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
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plot.svg");
        let results = results(&[
            ("randread-qd32", "qsd-uring", 100_000.0),
            ("randread-qd32", "ours+4096", 250_000.0),
            ("seqread-qd32", "qsd-uring", 10_000.0),
        ]);
        super::write(&results, "qsd-uring", "a machine", &path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("</svg>") && text.contains("ours+4096") && text.contains("2.50"));
        assert_eq!(text.matches("qsd-uring").count(), 3, "the title and two bars");
    }
}
