// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::super::condition::Subject;
use super::*;
use crate::request::Extent;
use proptest::prelude::*;

fn spec(text: &str) -> Spec {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> String {
    text.parse::<Spec>().expect_err("must be refused").to_string()
}

#[test]
fn kinds_and_their_values() {
    for (text, kind) in [
        ("io-error", FaultKind::IoError),
        ("delay=5ms", FaultKind::Delay(Duration::from_millis(5))),
        ("delay=3600s", FaultKind::Delay(Duration::from_secs(3600))),
        ("reorder", FaultKind::Reorder { window: 8 }),
        ("reorder=2", FaultKind::Reorder { window: 2 }),
        ("short", FaultKind::Short(Short { bytes: None, claims_success: false })),
        ("short=0x400,status=ok", FaultKind::Short(Short { bytes: Some(1024), claims_success: true })),
        ("short=512,status=ioerr", FaultKind::Short(Short { bytes: Some(512), claims_success: false })),
        ("stuck", FaultKind::Stuck),
        ("lose-key", FaultKind::LoseKey),
        ("lose-all-keys", FaultKind::LoseAllKeys),
        ("dun-not-incremented", FaultKind::DunNotIncremented),
        ("dun-32-bit", FaultKind::Dun32Bit),
        ("dun-byte-order", FaultKind::DunByteOrder),
        ("data-unit=4096", FaultKind::DataUnit(12)),
        ("key-halves-swapped", FaultKind::KeyHalvesSwapped),
        ("previous-key", FaultKind::PreviousKey),
        ("plaintext", FaultKind::Plaintext),
        ("bit-flip", FaultKind::BitFlip { every: 1, bit: 0 }),
        ("ocs=aborted", FaultKind::Controller(ControllerFault::Aborted)),
        ("link-lost", FaultKind::Controller(ControllerFault::LinkLost)),
        ("uic-failure", FaultKind::UicFailure),
        ("bit-flip=16,bit=4095", FaultKind::BitFlip { every: 16, bit: 4095 }),
    ] {
        assert_eq!(spec(text).kind, kind, "{text}");
        assert_eq!(spec(text).to_string(), text);
    }
}

#[test]
fn mistakes_say_what_is_allowed() {
    for (text, words) in [
        ("", "there is no fault"),
        ("oops", "previous-key"),
        ("io-error=1", "write io-error alone"),
        ("delay", "delay=VALUE"),
        ("delay=5", "5ms"),
        ("delay=3601s", "hour"),
        ("delay=-1s", "hour"),
        ("reorder=1", "from 2 to 64"),
        ("short=x", "whole number"),
        ("short,status=nokey", "status=ok"),
        ("data-unit=4097", "power of two"),
        ("data-unit=256", "512"),
        ("bit-flip=0", "from 1 on"),
        ("bit-flip,bit=4096", "4095"),
        ("io-error,status=ok", "there are op, sector"),
        ("io-error,op", "op=VALUE"),
        ("io-error,op=reed", "write-zeroes"),
        ("io-error,op=", "write-zeroes"),
        ("short,op=flush", "only read, write"),
        ("plaintext,op=write+evict", "only read, write"),
        ("io-error,sector=9-8", "smaller number first"),
        ("io-error,sector=a", "whole number"),
        ("io-error,slot=-1", "whole number"),
        ("io-error,nth=0", "from 1 on"),
        ("io-error,count=0", "from 1 on"),
        ("io-error,probability=1.01", "from 0 to 1"),
        ("io-error,probability=NaN", "from 0 to 1"),
        ("io-error,after=1h", "hour"),
        ("io-error,nth=1,nth=2", "twice"),
        ("io-error,,", "no value"),
        ("ocs", "ocs=VALUE"),
        ("ocs=9", "general-crypto-error"),
        ("link-lost,op=evict", "only read, write"),
        ("uic-failure,op=read", "only hibernate-enter"),
        ("stuck,op=link-startup", "only read, write"),
    ] {
        assert!(error(text).contains(words), "{text:?}: {}", error(text));
    }
}

#[test]
fn conditions_are_all_to_be_met() {
    let condition = spec("io-error,op=read+write,sector=100-200,slot=1-2,queue=1,lun=0-1").condition;
    let extents = [Extent { offset: 150 * 512, len: 512 }];
    let good = Subject { op: Op::Read, queue: 1, lun: 0, slot: Some(2), digested: false, extents: &extents };
    assert!(condition.matches(&good));
    let elsewhere = [Extent { offset: 201 * 512, len: 512 }];
    for bad in [
        Subject { op: Op::Flush, ..good },
        Subject { queue: 0, ..good },
        Subject { lun: 2, ..good },
        Subject { slot: Some(3), ..good },
        Subject { slot: None, ..good },
        Subject { extents: &elsewhere, ..good },
        Subject { extents: &[], ..good },
    ] {
        assert!(!condition.matches(&bad), "{bad:?}");
    }
    assert!(condition.matches(&Subject { extents: &[elsewhere[0], extents[0]], ..good }));
    // A fault that needs a key does not match a request without one.
    assert!(!spec("plaintext").condition.matches(&Subject { slot: None, ..good }));
    assert!(spec("short").condition.matches(&Subject { slot: None, ..good }));
}

#[test]
fn occurrences_and_chance() {
    let struck = |text: &str| -> Vec<u64> {
        let condition = spec(text).condition;
        let mut struck = 0;
        let chosen = (1..=1000).filter(|&matched| {
            let chosen = condition.chosen(matched, struck);
            struck += u64::from(chosen);
            chosen
        });
        chosen.collect()
    };
    assert_eq!(struck("io-error").len(), 1000);
    assert_eq!(struck("io-error,nth=999"), [999, 1000]);
    assert_eq!(struck("io-error,nth=3,count=2"), [3, 4]);
    assert_eq!(struck("io-error,probability=0").len(), 0);
    assert_eq!(struck("io-error,probability=1").len(), 1000);
    let tenth = struck("io-error,probability=0.1,seed=7");
    assert!((70..130).contains(&tenth.len()), "{}", tenth.len());
    assert_eq!(tenth, struck("io-error,probability=0.1,seed=7"));
    assert_ne!(tenth, struck("io-error,probability=0.1,seed=8"));
    assert_eq!(struck("io-error,probability=0.1,seed=7,count=3"), tenth[..3]);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\PC{0,40}|[a-z]{1,9}(=[0-9a-z]{0,22})?(,[a-z]{1,9}=[0-9+.x-]{0,24}){0,4})") {
        let _ = text.parse::<Spec>();
    }
}
