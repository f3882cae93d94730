// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every implementation against published vectors and against independent code: OpenSSL and the `xts-mode` crate.
//!
//! Each test runs once for each implementation. One that this CPU cannot run is reported as ignored; that is known only at
//! run time, hence the test harness of its own.

mod pieces;
mod reference;
mod search;
mod stack;
mod whole;

use libtest_mimic::{Arguments, Trial};
use scattered_xts::Implementation;

/// The name of a test and what it does.
type Test = (&'static str, fn(Implementation));

fn main() {
    let mut arguments = Arguments::from_args();
    // Whoever asks for ignored tests (xtask does) cannot mean those that this CPU cannot run.
    (arguments.include_ignored, arguments.ignored) = (false, false);
    let tests: [Test; 9] = [
        ("published_vectors", whole::published_vectors),
        ("every_data_unit_size_and_length", whole::every_data_unit_size_and_length),
        ("data_unit_numbers_carry", whole::data_unit_numbers_carry),
        ("any_key", whole::any_key),
        ("every_alignment", pieces::every_alignment),
        ("any_cuts", pieces::any_cuts),
        ("in_place", pieces::in_place),
        ("sides_of_unequal_length", pieces::sides_of_unequal_length),
        ("no_key_stays_on_the_stack", stack::no_key_stays_on_the_stack),
    ];
    let mut trials = Vec::new();
    for implementation in Implementation::ALL {
        if !implementation.is_available() {
            // One line for all of its tests.
            let never = || Err("this CPU cannot run it".into());
            trials
                .push(Trial::test(format!("{implementation} (this CPU cannot run it)"), never).with_ignored_flag(true));
            continue;
        }
        for (name, test) in tests {
            // The same test in a debug build would test the compiler's laziness; xtask runs it with --release.
            if name == "no_key_stays_on_the_stack"
                && (cfg!(debug_assertions) || implementation == Implementation::Portable)
            {
                continue;
            }
            let run = move || {
                test(implementation);
                Ok(())
            };
            trials.push(Trial::test(format!("{implementation}::{name}"), run));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
