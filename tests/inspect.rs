// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `inspect`: the program decrypts pieces of images that OpenSSL has encrypted.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use test_driver::data::{digests, key, openssl_xts, pattern};
use test_driver::wire::{BLAKE2B_256, CRC32C, SHA256, XXHASH64};

/// Bytes of plain image around the encrypted piece.
const BEFORE: usize = 12345;

struct Case {
    directory: TempDir,
    key: [u8; 64],
    plain: Vec<u8>,
    cipher: Vec<u8>,
    unit: usize,
    dun: u128,
}

impl Case {
    fn new(unit: usize, units: usize, dun: u128) -> Self {
        let key = key(unit as u64);
        let plain = pattern(7, unit * units);
        let cipher = openssl_xts(&key, dun, unit, &plain);
        let case = Self { directory: TempDir::new().expect("directory"), key, plain, cipher, unit, dun };
        case.write("image", &[&pattern(1, BEFORE), &case.cipher[..], &pattern(2, 999)].concat());
        case.write("key", &case.key);
        case.write("plain", &case.plain);
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("file");
    }

    /// `inspect image` with the right key, data unit size, DUN and offset, unless `options` (words with `@` for the
    /// directory) override them.
    fn inspect(&self, options: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
        command.stdin(Stdio::null()).arg("inspect").arg(self.path("image"));
        let mut default = |option: &str, value: String| {
            if !options.contains(&option) {
                command.args([option, &value]);
            }
        };
        default("--key-file", "@key".replace('@', &format!("{}/", self.directory.path().display())));
        default("--data-unit", self.unit.to_string());
        default("--dun", self.dun.to_string());
        default("--offset", BEFORE.to_string());
        let directory = format!("{}/", self.directory.path().display());
        command.args(options.iter().map(|word| word.replace('@', &directory))).output().expect("program")
    }

    fn text(&self, options: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.inspect(options);
        (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
    }
}

/// More than one step of a megabyte, every data unit size, DUNs with a carry.
#[test]
fn decrypts_what_openssl_has_encrypted() {
    for (unit, units, dun) in [
        (512, 3, 0),
        (512, 4099, u128::from(u64::MAX) - 1),
        (4096, 300, 5),
        (65536, 20, u128::MAX - 7),
        (16, 1, 1),
        (1 << 20, 2, 1 << 70),
    ] {
        let case = Case::new(unit, units, dun);
        let output = case.inspect(&["--length", &(unit * units).to_string()]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == case.plain, "data units of {unit}");
        let (code, text) = case.text(&["--verify", "@plain"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains(&format!("{units} data units of {unit}")), "{text}");
    }
}

#[test]
fn every_form_of_key_size_and_number() {
    let case = Case::new(4096, 4, 0x1234);
    let hex: String = case.key.iter().map(|byte| format!("{byte:02x}")).collect();
    case.write("hex", format!("{hex}\n").as_bytes());
    case.write("HEX", hex.to_uppercase().as_bytes());
    for key in ["@key", "@hex", "@HEX"] {
        for (unit, dun) in [("4K", "0x1234"), ("0x1000", "4660")] {
            let (code, text) = case.text(&["--key-file", key, "--data-unit", unit, "--dun", dun, "--verify", "@plain"]);
            assert_eq!(code, Some(0), "{key} {unit} {dun}: {text}");
        }
    }
    // The tweak is the low 128 bits of the number.
    let (code, text) = case.text(&["--dun", "0x100000000000000000000000000001234", "--verify", "@plain"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_piece_in_the_middle() {
    let case = Case::new(512, 10, 100);
    let offset = (BEFORE + 3 * 512).to_string();
    let output = case.inspect(&["--offset", &offset, "--dun", "103", "--length", "1K"]);
    assert!(output.stdout == case.plain[3 * 512..5 * 512]);
}

#[test]
fn encrypts_and_writes_files() {
    let case = Case::new(4096, 3, 9);
    case.write("image", &case.plain);
    case.write("cipher", &case.cipher);
    case.write("out", &[0; 1 << 20]);
    let options = ["--encrypt", "--offset", "0", "--length", "12K", "--output", "@out", "--verify", "@cipher"];
    let (code, text) = case.text(&options);
    assert_eq!(code, Some(0), "{text}");
    assert!(std::fs::read(case.path("out")).expect("output") == case.cipher, "and truncated");
}

/// Digests need no key. Other crates compute the reference.
#[test]
fn prints_digests() {
    let case = Case::new(4096, 5, 9);
    let run = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
        command.stdin(Stdio::null()).arg("inspect").arg(case.path("image")).args(options).output().expect("program")
    };
    let offset = BEFORE.to_string();
    for (name, algorithm) in
        [("crc32c", CRC32C), ("xxhash64", XXHASH64), ("sha256", SHA256), ("blake2b-256", BLAKE2B_256)]
    {
        let output = run(&["--digest", name, "--data-unit", "4K", "--offset", &offset, "--length", "20K"]);
        let expected: String = case
            .cipher
            .chunks(4096)
            .zip((BEFORE..).step_by(4096))
            .map(|(unit, at)| {
                let hex: String = digests(algorithm, 4096, unit).iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{at} {hex}\n")
            })
            .collect();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
        assert_eq!(output.status.code(), Some(0));
    }
    for (options, words) in [
        (&["--digest", "md5", "--data-unit", "4K", "--length", "4K"][..], "blake2b-256"),
        (&["--digest", "crc32c", "--data-unit", "4K", "--length", "5K"], "not a multiple"),
        (&["--digest", "crc32c", "--data-unit", "4K", "--length", "1G"], "exceed the image"),
        (&["--digest", "crc32c", "--data-unit", "4K"], "--length"),
        (&["--digest", "crc32c", "--data-unit", "4K", "--length", "4K", "--dun", "3"], "cannot be used with"),
        (&["--data-unit", "4K", "--length", "4K"], "--key-file"),
    ] {
        let output = run(options);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(words), "{options:?}: {text}");
    }
}

#[test]
fn says_what_differs() {
    let case = Case::new(512, 3000, u128::from(u64::MAX));
    let mut plain = case.plain.clone();
    let at = 2500 * 512 + 17;
    plain[at] ^= 0x40;
    plain[at + 512] ^= 1;
    plain[at + 513] ^= 1;
    case.write("changed", &plain);
    let (code, text) = case.text(&["--verify", "@changed"]);
    assert_eq!(code, Some(1), "{text}");
    for words in [
        "2 of 3000 data units".to_owned(),
        "data unit 2500 (DUN 0x100000000000009c3), byte 17 of it".to_owned(),
        format!("byte {at} of the piece"),
        format!("byte {} of the image", BEFORE + at),
        format!("it is {:#04x}, expected {:#04x}", case.plain[at], plain[at]),
    ] {
        assert!(text.contains(&words), "{words:?} is missing in: {text}");
    }
    // With wrong options, all of the data differs.
    for wrong in [["--dun", "0"], ["--data-unit", "1024"], ["--offset", "0"]] {
        let (code, text) = case.text(&[&wrong[..], &["--verify", "@plain"]].concat());
        assert!(code == Some(1) && text.contains("first in data unit 0 "), "{wrong:?}: {text}");
    }
}

/// A file whose last block the file system has filled up with zeroes.
#[test]
fn a_file_may_end_inside_the_last_data_unit() {
    let mut case = Case::new(4096, 2, 0);
    case.plain[5000..].fill(0);
    case.cipher = openssl_xts(&case.key, 0, 4096, &case.plain);
    case.write("image", &[vec![0; BEFORE], case.cipher.clone()].concat());
    case.write("plain", &case.plain[..5000]);
    assert_eq!(case.text(&["--verify", "@plain"]).0, Some(0));
    case.write("plain", &case.plain[..4096]);
    let (code, text) = case.text(&["--verify", "@plain", "--length", "8K"]);
    assert!(code == Some(2) && text.contains("smaller --length"), "{text}");
    // The image has no zeroes there.
    let full = pattern(3, 8192);
    case.write("image", &[vec![0; BEFORE], openssl_xts(&case.key, 0, 4096, &full)].concat());
    case.write("plain", &full[..8000]);
    let (code, text) = case.text(&["--verify", "@plain"]);
    assert!(code == Some(1) && text.contains("expected 0x00"), "{text}");
}

#[test]
fn mistakes_are_explained_and_show_no_key() {
    let case = Case::new(4096, 2, 0);
    case.write("short", &[0x41; 63]);
    case.write("long", &[0x41; 200]);
    case.write("letters", &[b'g'; 128]);
    case.write("empty", &[]);
    let many = format!("0x{}", "f".repeat(64));
    for (options, words) in [
        (&["--length", "4K", "--key-file", "@short"][..], "64 bytes, or 128 hexadecimal digits"),
        (&["--length", "4K", "--key-file", "@long"], "64 bytes, or 128 hexadecimal digits"),
        (&["--length", "4K", "--key-file", "@letters"], "no hexadecimal digit"),
        (&["--length", "4K", "--key-file", "@missing"], "No such file"),
        (&["--length", "5000"], "not a multiple of the data unit size"),
        (&["--length", "0"], "0 bytes"),
        (&["--length", "1G"], "exceed the image"),
        (&["--length", "4K", "--offset", "0xffffffffffffffff"], "exceed the image"),
        (&["--length", "8K", "--dun", &many], "2^256"),
        (&["--length", "4K", "--dun", "x"], "data unit number"),
        (&["--length", "4K", "--data-unit", "1000"], "power of two"),
        (&["--length", "4K", "--output", "@image"], "the image itself"),
        (&["--length", "4K", "--output", "@key"], "the key file itself"),
        (&["--verify", "@plain", "--output", "@plain"], "the file of --verify itself"),
        (&["--length", "4K", "--output", "@plain", "--key-file", "@missing"], "No such file"),
        (&["--verify", "@empty"], "the piece has 0 bytes"),
        (&[], "--length"),
    ] {
        let (code, text) = case.text(options);
        assert_eq!(code, Some(2), "{options:?}: {text}");
        assert!(text.contains(words), "{words:?} is missing in: {text}");
        assert!(!text.contains("AAAA") && !text.contains("4141") && !text.contains("gggg"), "{text}");
    }
    let image = std::fs::read(case.path("image")).expect("image");
    assert!(image[BEFORE..][..8192] == case.cipher, "inspect never changes the image");
    let same = |name: &str, bytes: &[u8]| std::fs::read(case.path(name)).expect("file") == bytes;
    assert!(same("key", &case.key) && same("plain", &case.plain), "nor its other files");
}
