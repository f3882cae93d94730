// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The sandbox: what it forbids, and that the program still works in it.
//!
//! It has its own test harness, because the first thread of a process must apply the sandbox: the program starts itself
//! again for that.

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
    // A run of ignored tests (as by xtask) does not include those that this system cannot run.
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
