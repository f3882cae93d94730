// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask bench`: the device and its peers, on the same images, with the same clients, in one interleaved run.
//!
//! [`workload`], [`contender`] and [`client`] are the three dimensions; [`plan`] says which of their combinations are
//! measured, [`run`] measures them in rounds, and the other modules are about the results.

mod aims;
mod client;
mod contender;
mod cpus;
mod header;
mod image;
mod plan;
mod plot;
mod results;
mod root;
mod run;
mod server;
mod table;
mod workload;

use crate::case::parse_size;
use crate::cli::{BenchArgs, BenchImage};
use crate::device::build_program;
use crate::measure::header::Header;
use crate::paths::Paths;
use crate::{mirror, packages, progress, setup};
use anyhow::{Context, Result, ensure};
use contender::Contender;
use image::{Images, Place};
use results::Results;
use serde_json::{Value, json};
use std::fs;
use workload::Level;

/// Our client's package.
const LOAD: &str = "vubc-load";

/// Runs it. False: something failed.
pub fn run(paths: &Paths, args: &BenchArgs) -> Result<bool> {
    ensure!(cfg!(target_arch = "x86_64"), "the peers' packages are for x86_64 only for now");
    let level = match (args.quick, args.full) {
        (true, _) => Level::Quick,
        (_, true) => Level::Full,
        _ => Level::Normal,
    };
    let baseline = Contender::named(&args.baseline)
        .with_context(|| format!("there is no contender {}; --list --full lists all", args.baseline))?;
    let groups = plan::groups(level, &args.filter, baseline);
    ensure!(!groups.is_empty(), "nothing matches --filter; --list --full lists all that can be measured");
    if args.list {
        list(&groups);
        return Ok(true);
    }
    let (rounds, seconds) = match level {
        Level::Quick => (2, 0.3),
        Level::Normal => (3, 0.5),
        Level::Full => (5, 0.5),
    };
    let (rounds, seconds) = (args.rounds.unwrap_or(rounds), args.seconds.unwrap_or(seconds));
    ensure!((0.02..=600.0).contains(&seconds), "--seconds must be from 0.02 to 600");
    let size = parse_size(&args.size)?;
    ensure!(size >= 16 << 20 && size.is_multiple_of(1 << 20), "--size must be a whole number of MiB, and at least 16M");
    let places: &[Place] = match (args.image, level) {
        (Some(BenchImage::Both), _) | (None, Level::Full) => &[Place::Tmpfs, Place::Disk],
        (Some(BenchImage::Disk), _) => &[Place::Disk],
        (Some(BenchImage::Tmpfs) | None, _) => &[Place::Tmpfs],
    };

    packages::ensure_all(paths)?;
    let root = root::Root::prepare(paths, mirror::find(args.mirror.as_deref())?.as_ref())?;
    let device = setup::device_program(paths)?;
    let load = progress::step("load generator (cargo build --release)", || build_program(paths, LOAD))?;
    let blkio = root.client(paths)?;
    let out = paths.target.join("bench");
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let (cpus, note) = cpus::choose();
    let how = format!("{rounds} rounds of {seconds} s each, images of {} MiB", size >> 20);
    let header = header::header(&device, &root, &how, cpus, note)?;
    println!("{}", header.text());

    let sockets = tempfile::Builder::new().prefix("vubc-bench-").tempdir()?;
    let bench = run::Bench {
        servers: server::Servers {
            device: &device,
            root: &root,
            cpus,
            sockets: sockets.path(),
            logs: &out.join("logs"),
        },
        load: &load,
        blkio: &blkio,
        cpus,
        seconds,
        rounds,
    };
    let mut results = Results::default();
    for place in places {
        let images = progress::step(&format!("images on {}", place.name()), || {
            Images::make(*place, size, &out, &root, &paths.log("bench-images"))
        });
        match images {
            Ok(images) => bench.run(&images, &groups, &mut results),
            // The other place may still work. The run counts as failed.
            Err(error) => results.failed.push(format!("{}: {error:#}", place.name())),
        }
    }
    report(&results, &header, &args.baseline, &out)?;
    if results.series.is_empty() {
        eprintln!("nothing was measured");
    }
    Ok(results.failed.is_empty() && !results.series.is_empty())
}

fn report(results: &Results, header: &Header, baseline: &str, out: &std::path::Path) -> Result<()> {
    print!("{}{}\n{}", table::text(results, baseline), aims::table(results), table::not_run(results));
    let (json_file, plot_file) = (out.join("bench.json"), out.join("bench.svg"));
    let json = json(results, header, baseline);
    fs::write(&json_file, serde_json::to_string_pretty(&json)? + "\n")
        .with_context(|| format!("cannot write {}", json_file.display()))?;
    let picture = plot::draw(results, baseline, header.get("CPU"))?;
    fs::write(&plot_file, picture).with_context(|| format!("cannot write {}", plot_file.display()))?;
    println!("written: {}, {}", json_file.display(), plot_file.display());
    Ok(())
}

fn json(results: &Results, header: &Header, baseline: &str) -> Value {
    let series = results.series.iter().map(|s| {
        json!({
            "image": s.place.name(), "workload": s.workload.name, "client": s.client.name(),
            "contender": s.contender.name, "median_iops": s.median(), "ratio": results.ratio(s, baseline),
            "samples": s.samples,
        })
    });
    let not_run = results
        .not_run
        .iter()
        .map(|(place, name, reason)| json!({ "image": place.name(), "contender": name, "reason": reason }));
    json!({
        "header": header.json(), "baseline": baseline, "results": series.collect::<Vec<_>>(),
        "aims": aims::json(results), "not_run": not_run.collect::<Vec<_>>(), "failed": results.failed,
    })
}

fn list(groups: &[plan::Group]) {
    for group in groups {
        let names: Vec<&str> = group.contenders.iter().map(|c| c.name).collect();
        println!("{}, {}: {}", group.workload.name, group.client.name(), names.join(" "));
    }
}
