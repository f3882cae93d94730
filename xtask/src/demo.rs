// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask demo`: one guest, a few encrypted files, and a report a person can read.

use crate::btrfs;
use crate::case::Case;
use crate::cli::{DemoArgs, DemoFs};
use crate::console::{self, Words};
use crate::paths::Paths;
use crate::progress;
use crate::run_case::{self, CaseRun, Outcome};
use crate::setup::{self, Prepared};
use anyhow::{Result, ensure};

/// Runs it; true when encryption was native and verified.
pub fn run(paths: &Paths, args: &DemoArgs) -> Result<bool> {
    ensure!(!args.ufs || args.fs == DemoFs::Ext4, "--ufs goes with ext4");
    let guest = if args.ufs { args.guest.without_our_driver() } else { args.guest.clone() };
    let prepared = setup::prepare(paths, &guest)?;
    if args.fs == DemoFs::Btrfs {
        return btrfs::run_on(paths, &prepared, &[], false);
    }
    let mut case = Case::read(&paths.guest_tests("demo.sh"))?;
    if args.ufs {
        case.attach_ufs();
    }
    let (run, took) = progress::timed("guest", || run_case::run(paths, &prepared, &case, args.keep));
    let run = run?;
    let words = console::words(&run.result("dmesg"));
    let ran = matches!(run.outcome, Outcome::Passed);
    progress::line("guest", if ran { "done" } else { "FAILED" }, took);
    println!("\n{}", report(&prepared, &run, &words));
    let good = ran && matches!(words, Words::Native(_)) && run.verified.is_some();
    match run.outcome {
        Outcome::Failed(reasons) => println!("FAILED: {}", reasons.join("\nFAILED: ").trim_end()),
        Outcome::Skipped(reason) => println!("FAILED: the demo could not run: {reason}"),
        Outcome::Passed if !good => println!("FAILED: not encrypted natively, or not verified"),
        Outcome::Passed => {}
    }
    if !good {
        println!("logs and results: {}", run.dir.display());
    }
    Ok(good)
}

fn report(prepared: &Prepared, run: &CaseRun, words: &Words) -> String {
    let machine = &prepared.machine;
    let count = |path: &str| run.stats.as_ref().and_then(|s| s.get(path));
    let number = |path: &str| count(path).map_or_else(|| "?".to_owned(), |n| n.to_string());
    let mebibytes = |path: &str| {
        count(path).map_or_else(|| "?".to_owned(), |n| format!("{:.1} MiB", n as f64 / f64::from(1 << 20)))
    };
    let verdict = match words {
        Words::Native(line) => format!("native, by the device (kernel: \"{line}\")"),
        Words::Fallback(line) => format!("FALLBACK, by the kernel's CPU (kernel: \"{line}\")"),
        Words::Silent => "the kernel said nothing about file contents encryption".to_owned(),
    };
    let lines = [
        ("accelerator", machine.accel.name().to_owned()),
        ("guest kernel", machine.kernel.name.clone()),
        ("QEMU", machine.qemu.version.clone()),
        ("device", capabilities(&run.result("capabilities"))),
        ("encryption", verdict),
        ("keys", format!("{} programmed, {} evicted", number("keyslots.program"), number("keyslots.evict"))),
        ("written", format!("{} requests, {} encrypted", number("requests.crypto_out"), mebibytes("bytes.crypto_out"))),
        ("read", format!("{} requests, {} decrypted", number("requests.crypto_in"), mebibytes("bytes.crypto_in"))),
        ("image", run.verified.as_ref().map_or_else(|| "NOT VERIFIED".to_owned(), ToString::to_string)),
    ];
    lines.iter().map(|(name, text)| format!("{name:<14}{text}\n")).collect()
}

/// One line out of `NAME=VALUE` lines, the files of `queue/crypto` in the guest's sysfs.
fn capabilities(text: &str) -> String {
    if text.trim().is_empty() {
        return "no inline encryption (the guest's queue has no crypto directory)".to_owned();
    }
    let get = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
    let mut parts = vec![];
    if let Some(n) = get("num_keyslots") {
        parts.push(format!("{n} keyslots"));
    }
    if let Some(n) = get("max_dun_bits") {
        parts.push(format!("{n}-bit data unit numbers"));
    }
    let wrapped = get("hw_wrapped_keys").is_some();
    // Kernels before 6.15 know raw keys only, and tell no types of keys.
    if get("raw_keys").is_some() || !wrapped {
        parts.push("raw keys".to_owned());
    }
    if wrapped {
        parts.push("hardware-wrapped keys".to_owned());
    }
    for line in text.lines() {
        if let Some((mode, sizes)) = line.strip_prefix("modes/").and_then(|l| l.split_once('=')) {
            parts.push(format!("{mode} with data units of {}", unit_sizes(sizes)));
        }
    }
    parts.join(", ")
}

/// The kernel shows a bit mask whose bits are the sizes themselves.
fn unit_sizes(mask: &str) -> String {
    let Ok(mask) = u64::from_str_radix(mask.trim_start_matches("0x"), 16) else { return mask.to_owned() };
    let sizes: Vec<String> = (0..64).map(|b| 1u64 << b).filter(|s| mask & s != 0).map(|s| s.to_string()).collect();
    match sizes.as_slice() {
        [first, .., last] => format!("{first} to {last}"),
        _ => sizes.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_in_words() {
        let text = "max_dun_bits=256\nnum_keyslots=32\nraw_keys=supported\nmodes/AES-256-XTS=0x1fe00\n";
        let words = "32 keyslots, 256-bit data unit numbers, raw keys, AES-256-XTS with data units of 512 to 65536";
        assert_eq!(capabilities(text), words);
        assert_eq!(capabilities(&text.replace("raw_keys=supported\n", "")), words);
        let words = words.replace("raw keys", "hardware-wrapped keys");
        assert_eq!(capabilities(&text.replace("raw_keys", "hw_wrapped_keys")), words);
        assert!(capabilities("").starts_with("no inline encryption"));
    }
}
