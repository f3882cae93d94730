// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask miri`: code with `unsafe` or with atomics whose order matters, under tools that see more than a test does.

use crate::device::cargo;
use crate::fuzz;
use crate::paths::Paths;
use crate::process;
use crate::report::Report;
use crate::rust_checks::check;
use std::time::Duration;

/// The parts that make no system calls, and take minutes, not hours: a name, and arguments for cargo.
const PARTS: [(&str, &[&str]); 2] = [("keyslot", &["keyslot"]), ("xts", &["--package", "scattered-xts"])];

/// Tests over guest memory, rings and every kind of disk, which Miri cannot run. Without the sandbox, which knows nothing of the
/// sanitizer's system calls.
const SANITIZED: [&str; 10] = [
    "broken_rings",
    "disks",
    "engine",
    "hostile",
    "inflight",
    "inline",
    "plain",
    "power_cut",
    "resize",
    "wrapped_keys",
];

/// Runs all; true when nothing failed.
pub fn run(paths: &Paths) -> bool {
    let mut report = Report::default();
    interleavings(paths, &mut report);
    sanitizer(paths, &mut report);
    miri(paths, &mut report);
    report.finish()
}

/// The keyslots under a scheduler that controls the order of threads; this needs a separate build.
fn interleavings(paths: &Paths, report: &mut Report) {
    let mut cargo = cargo(paths);
    cargo.args(["test", "--lib", "interleavings"]).env("RUSTFLAGS", "--cfg=shuttle");
    check(paths, report, "keyslot interleavings", cargo.env("CARGO_TARGET_DIR", paths.target.join("shuttle")));
}

fn sanitizer(paths: &Paths, report: &mut Report) {
    let name = "address sanitizer";
    let Some(triple) = fuzz::triple() else {
        report.skip(name, Duration::ZERO, &format!("not run: {}", fuzz::NO_SANITIZER));
        return;
    };
    let mut cargo = cargo(paths);
    cargo.args(["test", "--package", "vhost-user-blk-crypto", "--package", "scattered-xts"]);
    cargo.args(["--no-fail-fast", "--lib", "--target", triple]);
    cargo.args(SANITIZED.iter().flat_map(|test| ["--test", test]));
    // The sanitizer makes stack frames larger than the part of the stack that the device wipes.
    cargo.args(["--", "--skip", "no_key_stays_on_the_stack"]);
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", "-Zsanitizer=address");
    cargo.env("ASAN_OPTIONS", "detect_leaks=0").env("TEST_SANDBOX", "none");
    check(paths, report, name, cargo.env("CARGO_TARGET_DIR", paths.target.join("asan")));
}

fn miri(paths: &Paths, report: &mut Report) {
    // Otherwise this would select the toolchain of the current run.
    let cargo = || {
        let mut cargo = process::command("cargo");
        cargo.args(["+nightly", "miri"]).current_dir(&paths.root).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        cargo
    };
    if process::output(cargo().arg("--version")).is_err() {
        let reason = "not run: no nightly toolchain with Miri (rustup +nightly component add miri)";
        report.skip("Miri", Duration::ZERO, reason);
        return;
    }
    for (part, arguments) in PARTS {
        let mut cargo = cargo();
        cargo.args(["test", "--lib"]).args(arguments).env("CARGO_TARGET_DIR", paths.target.join("miri"));
        check(paths, report, &format!("Miri: {part}"), &mut cargo);
    }
}
