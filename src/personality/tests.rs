// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::fields::FIELDS;
use super::file::{description, parse};
use super::*;

#[test]
fn built_in_personalities_are_read() {
    let all = Personality::built_in().expect("built-in files");
    assert_eq!(all.len(), BUILT_IN.len());
    for personality in all {
        assert_eq!(Personality::load(&personality.name).expect("by name"), personality);
        assert!(!personality.summary.is_empty(), "{}", personality.name);
    }
}

/// The program's default equals the file that the reader sees.
#[test]
fn the_default_is_ideal() {
    let ideal = Personality::load(DEFAULT).expect("ideal");
    assert_eq!(ideal, Personality { summary: ideal.summary.clone(), ..Personality::default() });
    let (_, text) = BUILT_IN[0];
    assert_eq!(description(text).expect("ideal").given(), FIELDS);
}

/// No invented figures: values in a built-in file have a source, and values that it omits are marked.
#[test]
fn built_in_values_have_sources() {
    for (name, text) in BUILT_IN {
        let description = description(text).expect(name);
        for field in description.given().into_iter().filter(|field| *field != "serial") {
            assert!(description.source.contains_key(field), "{name}: {field} has no source");
        }
        if ![DEFAULT, "wide"].contains(&name) {
            for field in FIELDS {
                let named = description.given().contains(field)
                    || description.unknown.iter().chain(&description.differs).any(|marked| marked == field);
                assert!(named, "{name}: nothing is said about {field}");
            }
        }
    }
}

#[test]
fn built_in_files_survive_a_round_trip() {
    for (name, text) in BUILT_IN {
        let first = description(text).expect(name);
        let written = toml::to_string(&first).expect(name);
        assert_eq!(description(&written).expect(name), first, "{written}");
    }
}

#[test]
fn a_file_of_ones_own() {
    let text = "summary = \"mine\"\nkeyslots = 7\nkey_types = [\"raw\", \"wrapped\"]\ndata_unit_sizes = \"512,4096\"\n\
        program_latency_us = 20\nevict_latency_us = 30\ncrypto_throughput_mb_per_s = 400\ncrypto_latency_us = 5\n\
        keys_on_reset = \"kept\"\n";
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("mine.toml");
    std::fs::write(&path, text).expect("file");
    let mine = Personality::load(path.to_str().expect("path")).expect("file");
    assert_eq!(
        mine,
        Personality {
            name: "mine".into(),
            summary: "mine".into(),
            keyslots: 7,
            key_types: vec![KeyType::Raw, KeyType::Wrapped],
            data_unit_sizes: 0x1200,
            program_latency_us: 20,
            evict_latency_us: 30,
            crypto_throughput_mb_per_s: 400,
            crypto_latency_us: 5,
            keys_on_reset: KeysOnReset::Kept,
            ..Personality::default()
        }
    );
    std::fs::write(&path, "summary = \"\"\nkeyslots = -1\n").expect("file");
    let error = format!("{:#}", Personality::load(path.to_str().expect("path")).expect_err("no keyslots"));
    assert_eq!(error, format!("{}: keyslots is -1; allowed is 0 to 4096", path.display()));
}

#[test]
fn mistakes_are_named_with_field_and_range() {
    let error = |line: &str| format!("{:#}", parse("x", &format!("summary = \"x\"\n{line}\n")).expect_err(line));
    for (line, words) in [
        ("keyslots = -1", ["keyslots is -1", "0 to 4096"]),
        ("keyslots = 70000", ["keyslots is 70000", "0 to 4096"]),
        ("max_dun_bytes = 33", ["max_dun_bytes is 33", "1 to 32"]),
        ("queues = 256", ["queues is 256", "1 to 255"]),
        ("queue_depth = 2048", ["queue_depth is 2048", "4 to 1024"]),
        ("queue_depth = 100", ["queue_depth is 100", "power of two from 4 to 1024"]),
        ("program_latency_us = -1", ["program_latency_us is -1", "0 to 10000000"]),
        ("evict_latency_us = 10000001", ["evict_latency_us is 10000001", "0 to 10000000"]),
        ("crypto_latency_us = -1", ["crypto_latency_us is -1", "0 to 10000000"]),
        ("crypto_throughput_mb_per_s = 1000001", ["crypto_throughput_mb_per_s is 1000001", "0 to 1000000"]),
        ("serial = \"123456789012345678901\"", ["serial has 21 bytes", "at most 20"]),
        ("key_types = []", ["key_types is empty", "\"raw\", \"wrapped\""]),
        ("key_types = [\"rawer\"]", ["key_types = [\"rawer\"]", "`raw` or `wrapped`"]),
        ("keys_on_reset = \"gone\"", ["keys_on_reset = \"gone\"", "`lost` or `kept`"]),
        ("crypto_modes = []", ["crypto_modes is empty", "aes-256-xts"]),
        ("crypto_modes = [\"aes-256-xts\", \"adiantum\"]", ["\"adiantum\", which cannot be emulated", "aes-256-xts"]),
        ("digests = \"\"", ["digests has \"\"", "\"none\" or a list of crc32c"]),
        ("digests = \"sha256,none\"", ["digests has \"none\"", "blake2b-256"]),
        ("data_unit_sizes = \"256\"", ["data_unit_sizes: \"256\"", "from 512 to 65536"]),
        ("unknown = [\"colour\"]", ["unknown names \"colour\"", "keyslots"]),
        ("differs = [\"colour\"]", ["differs names \"colour\"", "keyslots"]),
        ("[source]\ncolour = \"x\"", ["[source] names \"colour\"", "keyslots"]),
        ("keyslots = 2\nunknown = [\"keyslots\"]", ["keyslots has a value and is in the list unknown", "remove"]),
        ("keyslot = 2", ["unknown field `keyslot`", "`keyslots`"]),
        ("keyslots = \"many\"", ["keyslots = \"many\"", "invalid type"]),
        ("keyslots = ", ["keyslots = ", "line 2"]),
    ] {
        let error = error(line);
        for word in words {
            assert!(error.contains(word), "{line}: {error}");
        }
    }
    assert!(parse("x", "").expect_err("no summary").to_string().contains("summary"));
    let error = Personality::load("ufs").expect_err("no such name").to_string();
    assert!(error.contains("\"ufs\"") && error.contains("ufs-3.1") && error.contains(".toml"), "{error}");
    let error = format!("{:#}", Personality::load("/nonexistent.toml").expect_err("no such file"));
    assert!(error.contains("/nonexistent.toml") && error.contains("No such file"), "{error}");
}

#[test]
fn the_table_has_all_and_marks_what_is_unknown() {
    let table = table().expect("table");
    for (name, _) in BUILT_IN {
        assert_eq!(table.lines().filter(|line| line.split_whitespace().next() == Some(name)).count(), 2, "{name}");
    }
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).expect(name);
    let cells = |name| line(name).split_whitespace().collect::<Vec<_>>();
    assert_eq!(cells("ideal"), ["ideal", "32", "raw", "512-65536", "128", "all", "64", "256", "keys", "lost", "no"]);
    assert_eq!(cells("emmc-cqhci")[1..7], ["32?", "raw", "512-65536?", "32", "none", "1"]);
    assert_eq!(cells("exynos-fmp")[1..4], ["0", "raw", "4096"]);
    assert!(line("qcom-ice").ends_with("no?"));
}
