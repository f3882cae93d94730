// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report's charts.

use super::load::Load;
use super::results::{Results, Sample, Series};
use super::target::{Disk, How, Kind, Target};
use crate::measure::header::Header;
use crate::measure::plot::{self, Bar, Colour, Group, Line};
use crate::measure::statistics;
use crate::measure::table::number;
use anyhow::Result;

/// Pictures under one heading.
pub struct Chapter {
    /// The heading.
    pub title: &'static str,
    /// What they show.
    pub words: &'static str,
    /// SVG.
    pub pictures: Vec<String>,
}

/// All of them; a chapter that would be empty is left out.
pub fn chapters(results: &Results) -> Result<Vec<Chapter>> {
    let mut chapters = vec![
        Chapter {
            title: "Throughput",
            words: "Medians of all rounds; the thin line goes from the least to the most. In brackets, the ratio to the same file \
                system without encryption or, by front, to virtio. More is better.",
            pictures: bars(
                results,
                |series| Series::speed_of(series.load),
                |series, value| {
                    let ratio = results.ratio(series).map_or(String::new(), |r| format!(" ({r:.2})"));
                    format!("{} {}{ratio}", number(value), series.load.unit())
                },
            )?,
        },
        Chapter {
            title: "CPU time of the guest",
            words: "Seconds of CPU time in the guest for 10^9 bytes, all that ran on its CPUs counted: what encryption in software \
                takes from the guest's own work. Less is better.",
            pictures: bars(
                results,
                |_| Box::new(Sample::guest_cpu_per_gb),
                |_, value| format!("{} s/GB", number(value)),
            )?,
        },
        Chapter {
            title: "CPU time of the device",
            words: "Seconds of CPU time of the device's process on the host for 10^9 bytes. Hardware would take none: this is what \
                the emulated engine costs.",
            pictures: bars(
                results,
                |_| Box::new(Sample::device_cpu_per_gb),
                |_, value| format!("{} s/GB", number(value)),
            )?,
        },
        Chapter {
            title: "Keys and keyslots",
            words: "Files with a key each, read or written at random, 4 KiB at a time, one request after the other. Long dashes: the same \
                through blk-crypto-fallback, which keeps keys in 100 slots of its own, in the kernel. Dots: a device without keyslots, \
                whose requests carry their keys.",
            pictures: churn(results)?,
        },
    ];
    chapters.retain(|c| !c.pictures.is_empty());
    Ok(chapters)
}

type Number = Box<dyn Fn(&Sample) -> f64>;

impl Series {
    /// The value to compare for a load.
    fn speed_of(load: &'static Load) -> Number {
        Box::new(move |sample| Self::speed(sample, load))
    }
}

/// A picture for each load, a bar for each target; changes of keys have pictures of another kind.
fn bars(
    results: &Results,
    value: impl Fn(&Series) -> Number,
    text: impl Fn(&Series, f64) -> String,
) -> Result<Vec<String>> {
    let groups = results.groups();
    let groups = groups.iter().filter(|(load, _)| !load.is_churn());
    let picture = |(load, group): &(&'static Load, Vec<&Series>)| {
        let bars = group.iter().filter_map(|series| {
            let summary = statistics::summary(&series.values(value(series)))?;
            Some(Bar {
                label: series.target.name.clone(),
                value: summary.median,
                range: (summary.min, summary.max),
                text: text(series, summary.median),
                colour: colour(series.target.how),
            })
        });
        plot::bars(&load.title(), &bars.collect::<Vec<_>>())
    };
    groups.map(picture).collect()
}

/// Lines over the number of keyslots.
fn churn(results: &Results) -> Result<Vec<String>> {
    let per_request = |s: &Sample| s.counters.programs_per_request().unwrap_or(0.0);
    let whole = |v: f64| format!("{v:.0}");
    let hundredths = |v: f64| format!("{v:.2}");
    let mut pictures = vec![];
    for (writing, what) in [(false, "reads"), (true, "writes")] {
        let mut add = |title: String, number: &dyn Fn(&Sample) -> f64, fallback: bool, form: &dyn Fn(f64) -> String| {
            let lines = lines(results, writing, number, fallback);
            if lines.iter().any(|l| !l.points.is_empty()) {
                pictures.push(plot::lines(&title, &lines, form)?);
            }
            anyhow::Ok(())
        };
        add(format!("Random {what} per second"), &Sample::rate, true, &whole)?;
        add(format!("Program commands per request, {what}"), &per_request, false, &hundredths)?;
        if !writing {
            add("Keys programmed per second, reads".to_owned(), &Sample::programs, false, &whole)?;
            let p99 = |s: &Sample| s.counted.latency.map_or(0.0, |l| l.p99);
            add("99 % of reads take at most, us".to_owned(), &p99, true, &whole)?;
        }
    }
    Ok(pictures)
}

/// The fallback has no commands, so it has no line for them.
fn lines(results: &Results, writing: bool, number: &dyn Fn(&Sample) -> f64, fallback: bool) -> Vec<Line> {
    let groups = results.groups();
    let of = |load: &Load| matches!(load, Load::Churn { writing: w, .. } if *w == writing);
    let groups = groups.iter().filter(|(load, _)| of(load));
    groups
        .enumerate()
        .map(|(at, (load, group))| {
            let files = if let Load::Churn { files, .. } = load { *files } else { 0 };
            let point = |s: &&&Series| Some((s.target.keyslots()?, s.median(number)));
            let level = |is: &dyn Fn(&Target) -> bool| group.iter().find(|s| is(&s.target)).map(|s| s.median(number));
            Line {
                label: format!("{files} files, {files} keys"),
                points: group.iter().filter_map(|s| point(&s)).collect(),
                dashed: level(&|target| fallback && target.how == How::Fallback),
                dotted: level(&|target| target.disk == Disk::KeysInRequests),
                colour: [plot::ORANGE, plot::BLUE, plot::GREEN, plot::PURPLE][at % 4],
            }
        })
        .collect()
}

/// The colour of a way to encrypt.
fn colour(how: How) -> Colour {
    match how {
        How::Plain => plot::GREY,
        How::Native => plot::ORANGE,
        How::Fallback => plot::BLUE,
        How::NoInlinecrypt => plot::SKY,
        How::DmCrypt => plot::GREEN,
        How::DmInlinecrypt => plot::PURPLE,
    }
}

/// One picture that stands alone: all ratios to the file system without encryption; where nothing was compared with that, those of
/// the fronts or, where only changes of keys were measured, the first of those.
pub fn overview(results: &Results, header: &Header) -> Result<String> {
    let groups = results.groups();
    let ordinary = groups.iter().any(|(load, _)| load.kind() == Kind::Ordinary);
    let (kind, base) = match ordinary {
        true => (Kind::Ordinary, "the same file system without encryption"),
        false => (Kind::Front, "virtio with one queue"),
    };
    let groups = groups.iter().filter(|(load, _)| load.kind() == kind).map(|(load, group)| {
        let bar = |series: &&Series| {
            let ratio = results.ratio(series)?;
            let speed = statistics::median(&series.speeds())?;
            Some(Bar {
                label: series.target.name.clone(),
                value: ratio,
                range: (ratio, ratio),
                text: format!("{ratio:.2}  ({} {})", number(speed), load.unit()),
                colour: colour(series.target.how),
            })
        };
        Group { title: load.title(), bars: group.iter().filter_map(bar).collect() }
    });
    let groups: Vec<_> = groups.filter(|group| !group.bars.is_empty()).collect();
    if groups.is_empty()
        && let Some(picture) = churn(results)?.first()
    {
        return Ok(plot::alone(picture));
    }
    let note = format!(
        "ratio to {base}; {}, {}",
        header.get("accelerator"),
        header.get("date").split(' ').next().unwrap_or_default()
    );
    Ok(plot::alone(&plot::overview("Encryption by the device and by the guest's CPU", &note, &groups, true)?))
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn every_load_has_its_pictures() {
        let chapters = chapters(&results()).unwrap();
        let numbers: Vec<usize> = chapters.iter().map(|c| c.pictures.len()).collect();
        assert_eq!(numbers, [5, 5, 5, 4]);
        assert!(chapters.iter().flat_map(|c| &c.pictures).all(|p| p.contains("</svg>")));
        assert!(chapters[0].pictures[2].contains("IOPS (2.00)"), "{}", chapters[0].pictures[2]);
    }

    #[test]
    fn without_changes_of_keys_there_is_no_chapter_of_them() {
        let mut results = results();
        results.series.retain(|s| !s.load.is_churn());
        assert_eq!(chapters(&results).unwrap().len(), 3);
        assert!(overview(&results, &Header::default()).unwrap().contains("ext4/native"));
    }
}
