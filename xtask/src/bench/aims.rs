// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ratios that the project aims for, next to those of a run.

use super::client::{Client, Program};
use super::image::Place;
use super::results::{Results, Series};
use crate::measure::statistics;
use serde_json::{Value, json};

/// Contenders that differ in settings. The fastest one counts.
struct Side {
    workload: &'static str,
    families: &'static [&'static str],
    unit: Option<u32>,
}

/// A ratio to reach.
struct Aim {
    what: &'static str,
    place: Place,
    ours: Side,
    theirs: Side,
    at_least: f64,
}

const URING: &[&str] = &["qsd-uring"];
const NATIVE: &[&str] = &["qsd-native"];
const RAW: &[&str] = &["qsd-uring", "qsd-native"];
const LUKS: &[&str] = &["qsd-luks"];
const OURS: &[&str] = &["ours"];

const fn against(what: &'static str, workload: &'static str, families: &'static [&'static str], at_least: f64) -> Aim {
    Aim {
        what,
        place: Place::Tmpfs,
        ours: Side { workload, families: OURS, unit: Some(4096) },
        theirs: Side { workload, families, unit: None },
        at_least,
    }
}

const fn encryption(
    what: &'static str,
    place: Place,
    workload: &'static str,
    families: &'static [&'static str],
    at_least: f64,
) -> Aim {
    Aim {
        what,
        place,
        ours: Side { workload, families, unit: Some(4096) },
        theirs: Side { workload, families, unit: None },
        at_least,
    }
}

const fn engine(what: &'static str, workload: &'static str) -> Aim {
    Aim {
        what,
        place: Place::Tmpfs,
        ours: Side { workload, families: &["ours-ram"], unit: Some(4096) },
        theirs: Side { workload, families: &["engine"], unit: Some(4096) },
        at_least: 0.85,
    }
}

const fn new_keys(what: &'static str, workload: &'static str, one_key: &'static str) -> Aim {
    Aim {
        what,
        place: Place::Tmpfs,
        ours: Side { workload, families: &["ours-noslots"], unit: Some(4096) },
        theirs: Side { workload: one_key, families: &["ours-noslots"], unit: Some(4096) },
        at_least: 0.9,
    }
}

const DIRECT: &[&str] = &["ours-direct"];

const AIMS: &[Aim] = &[
    against("4 KiB random read QD32: encrypted / qsd raw io_uring", "randread-qd32", URING, 1.8),
    against("4 KiB random write QD32: encrypted / qsd raw io_uring", "randwrite-qd32", URING, 1.8),
    against("4 KiB random read QD32: encrypted / qsd raw native, direct", "randread-qd32", NATIVE, 1.3),
    against("4 KiB random write QD32: encrypted / qsd raw native, direct", "randwrite-qd32", NATIVE, 1.3),
    against("4 KiB random read QD32: encrypted / qsd LUKS", "randread-qd32", LUKS, 4.0),
    against("4 KiB random write QD32: encrypted / qsd LUKS", "randwrite-qd32", LUKS, 4.0),
    against("4 KiB random read QD1: encrypted / qsd raw, its best", "randread-qd1", RAW, 4.0),
    against("128 KiB read QD32: encrypted / qsd LUKS", "seqread-qd32", LUKS, 9.0),
    against("128 KiB write QD32: encrypted / qsd LUKS", "seqwrite-qd32", LUKS, 9.0),
    against("128 KiB read QD32: encrypted / qsd raw, its best", "seqread-qd32", RAW, 0.8),
    against("128 KiB write QD32: encrypted / qsd raw, its best", "seqwrite-qd32", RAW, 0.8),
    encryption("4 KiB random read QD32: encrypted / plain", Place::Tmpfs, "randread-qd32", OURS, 0.85),
    encryption("4 KiB random write QD32: encrypted / plain", Place::Tmpfs, "randwrite-qd32", OURS, 0.85),
    encryption("disk, 4 KiB random read QD32, direct: encrypted / plain", Place::Disk, "randread-qd32", DIRECT, 0.97),
    encryption("disk, 4 KiB random write QD32, direct: encrypted / plain", Place::Disk, "randwrite-qd32", DIRECT, 0.97),
    engine("memory disk, 128 KiB read QD32 / the engine alone", "seqread-qd32"),
    engine("memory disk, 128 KiB write QD32 / the engine alone", "seqwrite-qd32"),
    Aim {
        what: "4 KiB random write QD32: a new key each / one key",
        place: Place::Tmpfs,
        ours: Side { workload: "churn-qd32", families: OURS, unit: Some(4096) },
        theirs: Side { workload: "randwrite-qd32", families: OURS, unit: Some(4096) },
        at_least: 0.85,
    },
    new_keys("4 KiB random write QD32, keys in requests: a new key each / one key", "churn-qd32", "randwrite-qd32"),
    new_keys("4 KiB random read QD32, keys in requests: a new key each / one key", "churn-read-qd32", "randread-qd32"),
];

/// An aim, and its result with one client.
struct Outcome<'a> {
    aim: &'a Aim,
    client: Client,
    sides: Option<(&'a Series, &'a Series, f64)>,
}

impl Outcome<'_> {
    fn verdict(&self) -> &'static str {
        match self.sides {
            None => "not measured",
            Some((_, _, ratio)) if ratio >= self.aim.at_least => "met",
            Some(_) => "NOT MET",
        }
    }
}

fn outcomes<'a>(results: &'a Results) -> impl Iterator<Item = Outcome<'a>> {
    let clients = Client::ALL.into_iter().filter(|c| c.program == Program::Load);
    AIMS.iter().flat_map(move |aim| {
        clients.clone().map(move |client| {
            let side = |side: &Side, client| results.best(aim.place, side.workload, client, side.families, side.unit);
            // The engine has no client.
            let engine = aim.theirs.families.contains(&"engine");
            let ours = side(&aim.ours, client);
            let theirs = side(&aim.theirs, if engine { Client::ALL[0] } else { client });
            let sides = ours
                .zip(theirs)
                .and_then(|(ours, theirs)| Some((ours, theirs, statistics::ratio(&ours.iops(), &theirs.iops())?)));
            Outcome { aim, client, sides }
        })
    })
}

/// A table of all aims that were measured, and the number of the others.
pub fn table(results: &Results) -> String {
    let mut text = String::from("Aims: ratios of the fastest settings of each side\n");
    let mut missing = 0;
    for outcome in outcomes(results) {
        let Some((ours, theirs, ratio)) = outcome.sides else {
            missing += 1;
            continue;
        };
        text += &format!(
            "  {:<60} {:<8} {ratio:>6.2}  aim {:>4.2}  {:<7}  {} / {}\n",
            outcome.aim.what,
            if outcome.client.polling { "polling" } else { "blocking" },
            outcome.aim.at_least,
            outcome.verdict(),
            ours.contender.name,
            theirs.contender.name,
        );
    }
    if missing > 0 {
        text += &format!("  not measured in this run: {missing} of {}\n", outcomes(results).count());
    }
    text
}

/// The same as JSON.
pub fn json(results: &Results) -> Value {
    outcomes(results)
        .map(|outcome| {
            json!({
                "aim": outcome.aim.what,
                "client": outcome.client.name(),
                "at_least": outcome.aim.at_least,
                "verdict": outcome.verdict(),
                "ratio": outcome.sides.map(|s| s.2),
                "contenders": outcome.sides.map(|s| [s.0.contender.name, s.1.contender.name]),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::contender;
    use super::super::results::tests::results;
    use super::super::workload::Workload;
    use super::*;

    #[test]
    fn aims_name_things_that_exist() {
        for aim in AIMS {
            for side in [&aim.ours, &aim.theirs] {
                assert!(Workload::named(side.workload).is_some(), "{}", aim.what);
                for family in side.families {
                    let exists = contender::ALL.iter().any(|c| c.family == *family && c.unit == side.unit);
                    assert!(exists, "{}: {family}", aim.what);
                }
            }
        }
    }

    #[test]
    fn verdicts() {
        let results = results(&[
            ("randread-qd32", "qsd-uring", 100.0),
            ("randread-qd32", "qsd-luks", 30.0),
            ("randread-qd32", "ours+4096", 170.0),
            ("randread-qd32", "ours-poll+4096", 190.0),
            ("randread-qd32", "ours", 400.0),
        ]);
        let text = table(&results);
        let line = |what: &str| text.lines().find(|l| l.contains(what)).unwrap_or_default().to_owned();
        assert!(line("qsd raw io_uring").contains("1.90") && line("qsd raw io_uring").contains(" met"), "{text}");
        assert!(line("qsd LUKS").contains("6.33"), "{text}");
        assert!(line("encrypted / plain").contains("NOT MET"), "{text}");
        assert!(text.contains("not measured in this run: 37 of 40"), "{text}");
    }
}
