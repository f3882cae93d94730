// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Least privilege: what the sandbox forbids, and that the program still does all that it should.
//!
//! A test harness of its own, because the sandbox must be applied by the first thread of a process: this program starts
//! itself again for that.

#[path = "../common/mod.rs"]
mod common;
mod device;
mod inside;
mod keys;
mod memory;
mod program;
mod systemd;

use libtest_mimic::{Arguments, Trial};

fn main() {
    if let Ok(action) = std::env::var(inside::ACTION) {
        inside::act(&action);
    }
    let mut arguments = Arguments::from_args();
    // Whoever asks for ignored tests (xtask does) cannot mean those that this system cannot run.
    (arguments.include_ignored, arguments.ignored) = (false, false);
    let mut trials = inside::trials();
    trials.extend(program::trials());
    trials.extend(memory::trials());
    trials.extend(keys::trials());
    trials.extend(systemd::trials());
    libtest_mimic::run(&arguments, trials).exit();
}

/// A test, or the reason why this system cannot run it.
fn trial(name: impl Into<String>, obstacle: Option<&str>, test: impl FnOnce() + Send + 'static) -> Trial {
    let name = name.into() + &obstacle.map_or(String::new(), |reason| format!(" ({reason})"));
    let run = move || {
        test();
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(obstacle.is_some())
}
