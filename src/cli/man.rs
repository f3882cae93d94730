// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The manual pages in `man/`, made from the command line's definition. A test compares the two.

use std::path::{Path, PathBuf};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::command;

/// The first line of each page; `cargo xtask man` regenerates the pages.
const SOURCE: &str = ".\\\" Made from src/cli by `cargo xtask man`; edit the comments there.\n";

/// An example: its purpose, and the command lines, which have been run.
type Example = (&'static str, &'static [&'static str]);

const DEVICE: &[Example] = &[
    (
        "An image of 1 GiB, 2 request queues and 32 keyslots; the last line is for QEMU, which also needs shared guest memory:",
        &[
            "truncate -s 1G disk.img",
            "vhost-user-blk-crypto --socket-path /tmp/disk.sock --blk-file disk.img --num-queues 2 --keyslots 32",
            "-chardev socket,id=disk,path=/tmp/disk.sock -device vhost-user-test-device-pci,chardev=disk,virtio-id=2,num_vqs=3,vq_size=256,config_size=104",
        ],
    ),
    (
        "An eMMC controller that takes 50 microseconds to program a key, with a control socket for ctl:",
        &[
            "vhost-user-blk-crypto --personality emmc-cqhci --program-latency-us 50 --control /tmp/control --socket-path /tmp/disk.sock --blk-file disk.img",
        ],
    ),
    (
        "A disk in memory whose engine loses all keys once, at the 500th encrypted write:",
        &[
            "vhost-user-blk-crypto --fault lose-all-keys,op=write,slot=0-31,nth=500,count=1 --socket-path /tmp/disk.sock --blk-ram 256M",
        ],
    ),
];

const CTL: &[Example] = &[
    (
        "The state of the device, its throughput and its counters:",
        &[
            "vhost-user-blk-crypto ctl --control /tmp/control status",
            "vhost-user-blk-crypto ctl --control /tmp/control top --once",
            "vhost-user-blk-crypto ctl --control /tmp/control stats --format prometheus",
        ],
    ),
    (
        "The engine loses its keys; then every tenth read takes 5 ms longer, until the fault is cleared:",
        &[
            "vhost-user-blk-crypto ctl --control /tmp/control reset-engine",
            "vhost-user-blk-crypto ctl --control /tmp/control fault add delay=5ms,op=read,probability=0.1,seed=7",
            "vhost-user-blk-crypto ctl --control /tmp/control fault clear",
        ],
    ),
    (
        "The disk grows to 2 GiB, and the guest is told:",
        &["truncate -s 2G disk.img", "vhost-user-blk-crypto ctl --control /tmp/control resize"],
    ),
    ("A trace for Perfetto:", &["vhost-user-blk-crypto ctl trace dump trace --format chrome > trace.json"]),
];

const INSPECT: &[Example] = &[(
    "Check that the image holds, at 64 KiB, the ciphertext of a file that was encrypted from data unit number 7 on:",
    &["vhost-user-blk-crypto inspect disk.img --key-file key --data-unit 4096 --dun 7 --offset 64K --verify file"],
)];

const PROGRAM: &str = "vhost-user-blk-crypto";
const PROGRAM_CTL: &str = "vhost-user-blk-crypto-ctl";
const PROGRAM_INSPECT: &str = "vhost-user-blk-crypto-inspect";
const OTHERS: &str = "README.md, qemu/README.md and docs/ of the source";

/// All pages, by file name.
fn pages() -> Vec<(String, String)> {
    let mut program = command();
    program.build();
    let find = |name| program.find_subcommand(name).expect("a subcommand").clone();
    let (ctl, inspect) = (find("ctl"), find("inspect"));
    let (mut commands, mut others) = (Vec::new(), Vec::new());
    leaves(&ctl, "ctl", &mut commands);
    for name in ["selftest", "completions"] {
        others.push((name.to_owned(), find(name)));
    }
    let see = |one: &str, other: &str| format!("{one}(1), {other}(1), {OTHERS}");
    vec![
        // The other subcommands have pages of their own.
        page(program, PROGRAM, &others, DEVICE, &see(PROGRAM_CTL, PROGRAM_INSPECT)),
        page(ctl, PROGRAM_CTL, &commands, CTL, &see(PROGRAM, PROGRAM_INSPECT)),
        page(inspect, PROGRAM_INSPECT, &[], INSPECT, &see(PROGRAM, PROGRAM_CTL)),
    ]
}

/// The subcommands that have none below them, with the words that name them.
fn leaves(command: &clap::Command, words: &str, found: &mut Vec<(String, clap::Command)>) {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let words = format!("{words} {}", inner.get_name());
        if inner.has_subcommands() {
            leaves(inner, &words, found);
        } else {
            found.push((words, inner.clone()));
        }
    }
}

fn page(
    command: clap::Command,
    name: &'static str,
    commands: &[(String, clap::Command)],
    examples: &[Example],
    see_also: &str,
) -> (String, String) {
    let mut out = Vec::new();
    let command = command.display_name(name).disable_help_subcommand(true);
    let man = Man::new(command)
        .title(name.to_uppercase())
        .source(PROGRAM)
        .manual("Inline encryption")
        .date(env!("CARGO_PKG_VERSION"));
    man.render_title(&mut out).expect("memory");
    man.render_name_section(&mut out).expect("memory");
    man.render_synopsis_section(&mut out).expect("memory");
    man.render_description_section(&mut out).expect("memory");
    man.render_options_section(&mut out).expect("memory");
    let mut text = String::from_utf8(out).expect("text");
    if !commands.is_empty() {
        text += ".SH COMMANDS\n";
    }
    for (words, command) in commands {
        text += &Roff::new().control("SS", [words.as_str()]).render();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        text += &Roff::new().text([roman(about)]).render();
        text += &own_options(command);
    }
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    for (what, lines) in examples {
        roff.control("PP", []).text([roman(*what)]).control("PP", []).control("nf", []).control("RS", ["4"]);
        for line in *lines {
            roff.text([bold(*line)]);
        }
        roff.control("RE", []).control("fi", []);
    }
    roff.control("SH", ["SEE ALSO"]).text([roman(see_also)]);
    text += &roff.render();
    // Every part begins with the same definitions; one copy is enough.
    let definitions = Roff::new().render();
    let text = [SOURCE, &definitions, &text.replace(&definitions, "")].concat();
    (format!("{name}.1"), text)
}

/// The options and arguments that only this command of `ctl` has.
fn own_options(command: &clap::Command) -> String {
    let mut out = Vec::new();
    let command = command.clone().mut_args(|arg| {
        let common = arg.is_global_set() || arg.get_id() == "help";
        arg.hide(common)
    });
    Man::new(command).render_options_section(&mut out).expect("memory");
    // The command has a heading already. A section whose options are all hidden is empty.
    let text = String::from_utf8(out).expect("text");
    text.lines().filter(|line| !line.starts_with(".SH")).fold(String::new(), |text, line| text + line + "\n")
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man")
}

#[test]
fn the_manual_pages_are_up_to_date() {
    let mut found: Vec<_> = std::fs::read_dir(directory())
        .expect("man/")
        .map(|entry| entry.expect("man/").file_name().into_string().expect("a name"))
        .collect();
    found.sort();
    let mut names = Vec::new();
    for (name, text) in pages() {
        let path = directory().join(&name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &text).expect("man/");
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "man/{name} is out of date: cargo xtask man");
        names.push(name);
    }
    names.sort();
    assert!(std::env::var_os("UPDATE_DOCS").is_some() || found == names, "man/ has {found:?}, not {names:?}");
}

/// The command line accepts all examples.
#[test]
fn the_examples_can_be_run() {
    let all = [DEVICE, CTL, INSPECT].concat();
    let lines: Vec<_> =
        all.iter().flat_map(|(_, lines)| *lines).filter_map(|line| line.strip_prefix(PROGRAM)).collect();
    assert!(lines.len() >= 10);
    for line in lines {
        let words = line.split_whitespace().take_while(|word| *word != ">");
        let parsed = command().try_get_matches_from(std::iter::once(PROGRAM).chain(words));
        assert!(parsed.is_ok(), "{line}: {}", parsed.err().map(|error| error.to_string()).unwrap_or_default());
    }
}

/// Every option is in one of the pages.
#[test]
fn every_option_is_in_a_page() {
    fn check(command: &clap::Command, text: &str) {
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let name = arg.get_long().map_or_else(|| arg.get_id().to_string(), |long| long.replace('-', "\\-"));
            assert!(text.to_lowercase().contains(&name.to_lowercase()), "{} of {}", name, command.get_name());
        }
        command.get_subcommands().for_each(|inner| check(inner, text));
    }
    let text = pages().into_iter().map(|(_, text)| text).collect::<String>();
    check(&command(), &text);
}
