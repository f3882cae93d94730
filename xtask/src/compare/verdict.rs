// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the device or the guest encrypted a target: from the kernel's messages and from the device's counters. The
//! two must agree.

use super::disk::Counters;
use super::target::{Disk, How, Target};

/// Who encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The device, with its keyslots.
    Native,
    /// The guest's CPU, in blk-crypto-fallback.
    Fallback,
    /// The guest's CPU, in dm-crypt.
    DmCrypt,
    /// Nobody.
    Plain,
    /// Partly the device, partly the guest.
    Mixed,
}

impl Way {
    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Native => "NATIVE",
            Self::Fallback => "FALLBACK",
            Self::DmCrypt => "dm-crypt",
            Self::Plain => "plain",
            Self::Mixed => "MIXED",
        }
    }
}

/// How a target was encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Who encrypted.
    pub way: Way,
    /// The kernel's messages.
    pub kernel: String,
    /// The device's counters, in words.
    pub device: String,
    /// Why this is a contradiction, or not what was asked for.
    pub problem: Option<String>,
}

/// fscrypt's messages, in order. The kernel logs each of them once per boot.
#[derive(Debug, Default)]
pub struct Words {
    lines: Vec<String>,
}

/// What fscrypt logged when a target was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// New lines about the contents of files.
    pub new: Vec<String>,
    /// It had logged "native" before.
    pub native_before: bool,
    /// It had logged "fallback" before.
    pub fallback_before: bool,
}

const NATIVE: &str = "blk-crypto (native)";
const FALLBACK: &str = "blk-crypto-fallback";

impl Words {
    /// Takes all messages so far; returns the new ones.
    pub fn feed(&mut self, text: &str) -> Said {
        let before = |what: &str| self.lines.iter().any(|l| l.ends_with(what));
        let (native_before, fallback_before) = (before(NATIVE), before(FALLBACK));
        let all: Vec<String> = text
            .lines()
            .map(|l| l.trim().to_owned())
            .filter(|l| l.ends_with(NATIVE) || l.ends_with(FALLBACK))
            .collect();
        let new = all.iter().skip(self.lines.len()).cloned().collect();
        self.lines = all;
        Said { new, native_before, fallback_before }
    }
}

/// Below this share of its bytes, what the device encrypted counts as nothing; above the other, as everything.
const NOTHING: f64 = 0.001;
const EVERYTHING: f64 = 0.9;

/// Judges a target by what the kernel said when it was made, and by what its device counted for `bytes` of load.
pub fn judge(target: &Target, said: &Said, counted: Counters, bytes: f64) -> Verdict {
    let share = if bytes > 0.0 { counted.crypto_bytes as f64 / bytes } else { 0.0 };
    let units = counted.encrypted + counted.decrypted;
    let device = if units == 0 {
        "no data unit encrypted or decrypted".to_owned()
    } else {
        format!("{} data units encrypted, {} decrypted", counted.encrypted, counted.decrypted)
    };
    let fscrypt = matches!(target.how, How::Native | How::Fallback | How::NoInlinecrypt);
    let way = match (share, target.how) {
        (EVERYTHING.., _) if units > 0 => Way::Native,
        (NOTHING.., _) => Way::Mixed,
        (_, How::Plain) => Way::Plain,
        (_, How::DmCrypt) => Way::DmCrypt,
        _ => Way::Fallback,
    };
    let kernel = if !said.new.is_empty() {
        said.new.join("; ")
    } else if !fscrypt {
        "nothing, as expected".to_owned()
    } else {
        "nothing new (it says each only once per boot)".to_owned()
    };
    let contradiction = contradiction(target, fscrypt, way, said, share);
    let (kernel, contradiction) = match contradiction {
        // The kernel says "native" now, or said so before and is silent now: the series is wrong about itself.
        Some(_) if target.expected().is_none() && way == Way::Fallback => (format!("{kernel}; {KNOWN}"), None),
        problem => (kernel, problem),
    };
    let problem = contradiction.or_else(|| unexpected(target, way)).or_else(|| programmed(target, counted));
    Verdict { way, kernel, device, problem }
}

/// For a file system whose encryption is not merged yet, the kernel's messages alone prove nothing.
const KNOWN: &str = "the device encrypted nothing all the same: a known error of the public btrfs series, whose fscrypt looks for \
    hardware before it says that checksums need the fallback";

fn contradiction(target: &Target, fscrypt: bool, way: Way, said: &Said, share: f64) -> Option<String> {
    let new = |what: &str| said.new.iter().any(|l| l.ends_with(what));
    let percent = 100.0 * share;
    if !fscrypt {
        return (!said.new.is_empty())
            .then(|| format!("fscrypt logged messages, but this target has no fscrypt: {}", target.name));
    }
    match way {
        Way::Mixed => Some(format!("the device encrypted {percent:.1} % of the bytes: neither native nor fallback")),
        Way::Native if new(FALLBACK) => Some("the kernel says fallback, but the device encrypted all".to_owned()),
        Way::Native if !new(NATIVE) && !said.native_before => {
            Some("the device encrypted all, but the kernel never said native".to_owned())
        }
        Way::Fallback if new(NATIVE) => Some("the kernel says native, but the device encrypted nothing".to_owned()),
        Way::Fallback if !new(FALLBACK) && !said.fallback_before => {
            Some("the device encrypted nothing, and the kernel never said fallback".to_owned())
        }
        _ => None,
    }
}

fn unexpected(target: &Target, way: Way) -> Option<String> {
    let wanted = match target.expected()? {
        How::Plain => Way::Plain,
        How::Native | How::DmInlinecrypt => Way::Native,
        How::Fallback | How::NoInlinecrypt => Way::Fallback,
        How::DmCrypt => Way::DmCrypt,
    };
    (way != wanted).then(|| format!("it ran as {}, but should have run as {}", way.title(), wanted.title()))
}

/// Without keyslots, there is nothing to program.
fn programmed(target: &Target, counted: Counters) -> Option<String> {
    let commands = counted.programs + counted.evicts;
    (target.disk == Disk::KeysInRequests && commands > 0)
        .then(|| format!("{commands} commands for keyslots that it does not have"))
}

#[cfg(test)]
pub mod tests {
    use super::super::target;
    use super::*;

    /// The verdict on a target in a good run.
    pub fn verdict(target: &Target) -> Verdict {
        let (crypto_bytes, line) = match target.how {
            How::Native => (1000, vec![format!("fscrypt: AES-256-XTS using {NATIVE}")]),
            How::Fallback | How::NoInlinecrypt => (0, vec![format!("fscrypt: AES-256-XTS using {FALLBACK}")]),
            _ => (0, vec![]),
        };
        let counters = Counters { crypto_bytes, encrypted: crypto_bytes, ..Counters::default() };
        judge(target, &Said { new: line, ..Said::default() }, counters, 1000.0)
    }

    fn by_name(name: &str) -> Target {
        target::all(false).into_iter().find(|t| t.name == name).unwrap()
    }

    fn judged(name: &str, words: &[&str], crypto_bytes: u64) -> Verdict {
        let mut all = Words::default();
        let mut said = Said::default();
        for text in words {
            said = all.feed(text);
        }
        let counters = Counters { crypto_bytes, encrypted: crypto_bytes / 4096, ..Counters::default() };
        judge(&by_name(name), &said, counters, 1e6)
    }

    const SAYS_NATIVE: &str =
        "fscrypt: AES-256-CBC-CTS using implementation \"x\"\nfscrypt: AES-256-XTS using blk-crypto (native)\n";
    const SAYS_FALLBACK: &str = "fscrypt: AES-256-XTS using blk-crypto-fallback\n";

    #[test]
    fn words_and_counters_agree() {
        for target in target::all(true) {
            assert_eq!(verdict(&target).problem, None, "{}", target.name);
        }
        let native = judged("ext4/native", &["", SAYS_NATIVE], 1_000_000);
        assert_eq!((native.way, native.problem), (Way::Native, None));
        assert_eq!(native.kernel, "fscrypt: AES-256-XTS using blk-crypto (native)");
        let again = judged("churn/4", &[SAYS_NATIVE, SAYS_NATIVE], 1_000_000);
        assert_eq!((again.way, again.problem), (Way::Native, None));
        let fallback = judged("ext4/fallback", &[SAYS_NATIVE, &format!("{SAYS_NATIVE}{SAYS_FALLBACK}")], 0);
        assert_eq!((fallback.way, fallback.problem), (Way::Fallback, None));
    }

    #[test]
    fn contradictions_are_seen() {
        let problem = |name, words: &[&str], bytes| judged(name, words, bytes).problem;
        for (name, words, bytes) in [
            ("ext4/native", SAYS_FALLBACK, 1_000_000),
            ("ext4/native", SAYS_NATIVE, 0),
            ("ext4/native", SAYS_NATIVE, 500_000),
            ("ext4/native", "", 1_000_000),
            ("ext4/fallback", "", 0),
            ("ext4/plain", "", 1_000_000),
            ("ext4/plain", SAYS_NATIVE, 0),
            ("ext4/dm-crypt", "", 500_000),
            ("ext4/dm-inlinecrypt", "", 0),
            // They agree, but it is not what was asked for.
            ("ext4/native", SAYS_FALLBACK, 0),
            ("ext4/fallback", SAYS_NATIVE, 1_000_000),
        ] {
            assert!(problem(name, &["", words], bytes).is_some(), "{name} {words} {bytes}");
        }
    }

    #[test]
    fn an_unfinished_file_system_may_do_either() {
        let fallback = judged("btrfs/native", &["", SAYS_FALLBACK], 0);
        assert_eq!((fallback.way, fallback.problem), (Way::Fallback, None));
        assert_eq!(judged("btrfs/native", &["", SAYS_NATIVE], 1_000_000).problem, None);
        assert!(judged("btrfs/native", &["", SAYS_FALLBACK], 1_000_000).problem.is_some());
        assert!(judged("btrfs/native", &["", SAYS_NATIVE], 500_000).problem.is_some());
    }

    #[test]
    fn a_known_wrong_word_is_told_and_no_failure() {
        for words in [&["", SAYS_NATIVE], &[SAYS_NATIVE, SAYS_NATIVE]] {
            let wrong = judged("btrfs/native", words, 0);
            assert_eq!((wrong.way, wrong.problem), (Way::Fallback, None));
            assert!(wrong.kernel.contains("a known error of the public btrfs series"), "{}", wrong.kernel);
        }
    }
}
