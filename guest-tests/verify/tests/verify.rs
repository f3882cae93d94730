// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The whole verification, on small images made here: right ones pass, and every kind of error is found.

use std::fs;
use std::path::PathBuf;

use fscrypt_verify::fscrypt::{FileIdentity, MasterKey, Method};
use fscrypt_verify::hex;
use fscrypt_verify::report::Report;
use fscrypt_verify::xts::Xts;
use serde_json::{Value, json};
use tempfile::TempDir;

const SENTINEL: &str = "plaintext sentinel: 31 letters.";
const IMAGE_SIZE: usize = 1 << 20;
const BLOCK: usize = 4096;
/// Where the test's file lies: two extents, the second one before the first on the disk.
const PLACES: [(usize, usize, usize); 2] = [(0, 64 * BLOCK, 3 * BLOCK), (3 * BLOCK, 16 * BLOCK, 2 * BLOCK)];
const DIRECTORY_PLACE: usize = 200 * BLOCK;
/// A name and its ciphertext in inode 12, with IV_INO_LBLK_64 and the hardware-wrapped key below; made with Python's
/// `cryptography`.
const NAME: &str = "a-name-of-thirty-seven-bytes-for-you!";
const ENCRYPTED_NAME: &str = concat!(
    "06f3b54663d19cae6d5cb6100e84e10f309a8d1bfe162955e95db551169b6503",
    "994e2218fc7d1f6584428099d15687f65c301bb92333afee040e08dafc0e5e98"
);

struct Fixture {
    dir: TempDir,
    image: Vec<u8>,
    manifest: Vec<Value>,
}

impl Fixture {
    fn new(method: Method, unit: usize) -> Self {
        let raw: [u8; 64] = std::array::from_fn(|i| (i * 3) as u8);
        let master = MasterKey::from_raw(&raw).expect("key");
        Self::with_key(method, unit, &master, &format!("raw {}", hex::encode(&raw)))
    }

    fn with_key(method: Method, unit: usize, master: &MasterKey, key_line: &str) -> Self {
        let identity = FileIdentity { method, nonce: [9; 16], ino: 4711, fs_uuid: [5; 16] };
        let flags = match method {
            Method::PerFileKey => 0x03,
            Method::InoLblk64 => 0x08,
            Method::InoLblk32 => 0x10,
        };
        // Not a whole number of blocks: the rest of the last one is zeros before encryption.
        let mut plaintext: Vec<u8> = (0..4 * BLOCK + 777).map(|i| (((i * i) >> 5) ^ (i >> 9)) as u8).collect();
        for sector in plaintext.chunks_mut(512) {
            sector[..SENTINEL.len()].copy_from_slice(SENTINEL.as_bytes());
        }

        let mut image: Vec<u8> = (0..IMAGE_SIZE).map(|i| (i >> 7) as u8).collect();
        let mut padded = plaintext.clone();
        padded.resize(5 * BLOCK, 0);
        let mut xts = Xts::new(&master.contents_key(&identity).expect("key")).expect("XTS");
        let numbering = master.numbering(&identity).expect("numbering");
        for (logical, physical, length) in PLACES {
            for at in (0..length).step_by(unit) {
                let dun = numbering.dun(((logical + at) / unit) as u64).expect("dun");
                let data = &padded[logical + at..][..unit];
                image[physical + at..][..unit].copy_from_slice(&xts.encrypt(dun, data).expect("encrypt"));
            }
        }

        let dir = TempDir::new().expect("directory");
        fs::create_dir(dir.path().join("plain")).expect("plain");
        fs::write(dir.path().join("plain/file"), &plaintext).expect("plaintext");
        fs::write(dir.path().join("keys"), format!("{key_line}\n")).expect("keys");
        fs::write(dir.path().join("sentinel"), SENTINEL).expect("sentinel");
        let extents: Vec<Value> =
            PLACES.iter().map(|(l, p, n)| json!({"logical": l, "physical": p, "length": n, "flags": 0})).collect();
        let manifest = vec![json!({
            "kind": "fscrypt", "path": "/mnt/file", "plain": "file", "ino": 4711, "size": plaintext.len(),
            "offset": 0, "block_size": BLOCK, "fs_uuid": "05".repeat(16), "nonce": "09".repeat(16),
            "policy": {
                "version": 2, "contents_mode": 1, "filenames_mode": 4, "flags": flags,
                "log2_data_unit_size": if unit == BLOCK { 0 } else { unit.ilog2() },
                "key_identifier": hex::encode(&master.identifier()),
            },
            "extents": extents,
        })];
        Self { dir, image, manifest }
    }

    fn per_file() -> Self {
        Self::new(Method::PerFileKey, BLOCK)
    }

    fn hw_wrapped(method: Method, unit: usize) -> Self {
        let imported: [u8; 32] = std::array::from_fn(|i| i as u8);
        let master = MasterKey::from_hw_wrapped(&imported).expect("key");
        Self::with_key(method, unit, &master, &format!("hw-wrapped {}", hex::encode(&imported)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn verify(&self) -> anyhow::Result<Report> {
        fs::write(self.path("image"), &self.image)?;
        let lines: Vec<String> = self.manifest.iter().map(Value::to_string).collect();
        fs::write(self.path("manifest.jsonl"), lines.join("\n"))?;
        fscrypt_verify::verify(&self.path("image"), self.dir.path(), false)
    }

    /// Puts a directory with these entries into a block of the image.
    fn add_directory(&mut self, entries: &[(u32, &[u8])]) {
        let at = DIRECTORY_PLACE;
        let mut block = Vec::new();
        for (ino, name) in [(2, &b"."[..]), (2, b"..")].iter().chain(entries) {
            let length = (8 + name.len()).next_multiple_of(4) as u16;
            block.extend(ino.to_le_bytes());
            block.extend(length.to_le_bytes());
            block.extend([name.len() as u8, 1]);
            block.extend(*name);
            block.resize(block.len().next_multiple_of(4), 0);
        }
        let rest = (BLOCK - block.len()) as u16;
        block.extend([0; 4]);
        block.extend(rest.to_le_bytes());
        block.resize(BLOCK, 0);
        self.image[at..at + BLOCK].copy_from_slice(&block);

        let mut entry = self.manifest[0].clone();
        entry["kind"] = json!("names");
        entry["path"] = json!("/mnt");
        entry["ino"] = json!(12);
        entry["fs_uuid"] = json!("303132333435363738393a3b3c3d3e3f");
        entry["extents"] = json!([{"logical": 0, "physical": at, "length": BLOCK, "flags": 1}]);
        entry["names"] = json!([{"name": NAME, "ino": 4711}]);
        entry["policy"]["flags"] = json!(0x0b);
        self.manifest.push(entry);
    }

    /// The words of a verification that must fail.
    fn failure(&self) -> String {
        match self.verify() {
            Ok(report) => {
                assert!(!report.is_verified(), "verified: {report}");
                report.to_string()
            }
            Err(error) => format!("{error:#}"),
        }
    }

    fn assert_fails(&self, words: &str) {
        let failure = self.failure();
        assert!(failure.contains(words), "expected \"{words}\" in: {failure}");
    }
}

#[test]
fn all_policies_and_data_unit_sizes() {
    for method in [Method::PerFileKey, Method::InoLblk64, Method::InoLblk32] {
        for unit in [512, 1024, 4096] {
            let report = Fixture::new(method, unit).verify().expect("verification");
            assert!(report.is_verified(), "{report}");
            assert_eq!((report.files, report.data_units), (1, (5 * BLOCK / unit) as u64));
            assert_eq!(report.scanned_bytes, IMAGE_SIZE as u64);
            let line = format!("ciphertext verified: 1 files, {} blocks (", 5 * BLOCK / unit);
            assert!(report.to_string().starts_with(&line), "{report}");
            assert_eq!(report.to_json()["verified"], true);
        }
    }
}

#[test]
fn hardware_wrapped_keys() {
    for method in [Method::InoLblk64, Method::InoLblk32] {
        let report = Fixture::hw_wrapped(method, BLOCK).verify().expect("verification");
        assert!(report.is_verified(), "{report}");
        assert_eq!((report.files, report.data_units), (1, 5));
    }
}

/// A device that takes the bytes of a hardware-wrapped key for a raw key derives other keys, with another identifier.
#[test]
fn the_kind_of_a_key_matters() {
    let fixture = Fixture::hw_wrapped(Method::InoLblk64, BLOCK);
    let keys = fs::read_to_string(fixture.path("keys")).expect("keys");
    fs::write(fixture.path("keys"), keys.replace("hw-wrapped", "raw")).expect("keys");
    fixture.assert_fails("none of the keys has the identifier");
}

#[test]
fn names() {
    let name = hex::decode(ENCRYPTED_NAME).expect("hex");
    let with = |entries: &[(u32, &[u8])]| {
        let mut fixture = Fixture::hw_wrapped(Method::InoLblk64, BLOCK);
        fixture.add_directory(entries);
        fixture
    };
    let report = with(&[(4711, &name)]).verify().expect("verification");
    assert!(report.is_verified(), "{report}");
    assert_eq!((report.directories, report.names), (1, 1));
    assert!(report.to_string().contains("names verified: 1 in 1 directories"), "{report}");

    let mut flipped = name.clone();
    flipped[40] ^= 1;
    with(&[(4711, &flipped)]).assert_fails("1 of 1 names wrong");
    with(&[(4711, NAME.as_bytes())]).assert_fails("the name in plaintext");
    with(&[(4712, &name)]).assert_fails("found for its inode 4711: nothing");
    with(&[]).assert_fails("nothing");
    with(&[(4711, &name), (4712, &flipped)]).assert_fails("(inode 4712) is the encryption of none of its names");
    let mut broken = with(&[(4711, &name)]);
    broken.image[DIRECTORY_PLACE..DIRECTORY_PLACE + BLOCK].fill(0);
    broken.assert_fails("this is not a block of a directory");
}

#[test]
fn a_flipped_bit_is_caught_wherever_it_is() {
    for (_, physical, length) in PLACES {
        for at in [physical, physical + 1000, physical + length - 1] {
            let mut fixture = Fixture::per_file();
            fixture.image[at] ^= 0x10;
            let report = fixture.verify().expect("verification");
            assert_eq!(report.mismatches.len(), 1, "{report}");
            assert_eq!(report.mismatches[0].first_difference, at % BLOCK);
            assert_eq!(report.mismatches[0].guess, "4080 of its 4096 bytes are right");
            assert_eq!(report.to_json()["verified"], false);
        }
    }
}

#[test]
fn blocks_in_each_others_place_are_caught_and_named() {
    let mut fixture = Fixture::per_file();
    let (first, third) = (64 * BLOCK, 66 * BLOCK);
    fixture.image.copy_within(third..third + BLOCK, first);
    fixture.assert_fails("it is the right ciphertext of data unit 2");
}

/// The padding of the last block is compared, too.
#[test]
fn wrong_padding_is_caught() {
    let mut fixture = Fixture::per_file();
    fixture.image[18 * BLOCK - 20] ^= 1;
    assert!(!fixture.verify().expect("verification").is_verified());
}

#[test]
fn a_wrong_data_unit_number_is_caught_and_named() {
    let mut fixture = Fixture::per_file();
    // The policy has other data unit numbers than the image.
    fixture.manifest[0]["extents"] = json!([{"logical": 0, "physical": 65 * BLOCK, "length": 2 * BLOCK, "flags": 0}]);
    fixture.manifest[0]["size"] = json!(2 * BLOCK);
    let plaintext = fs::read(fixture.path("plain/file")).expect("plaintext");
    fs::write(fixture.path("plain/file"), &plaintext[BLOCK..3 * BLOCK]).expect("plaintext");
    fixture.assert_fails("it is encrypted with data unit number 1 (too high)");
}

#[test]
fn another_files_key_is_caught_and_named() {
    let mut fixture = Fixture::per_file();
    let mut other = fixture.manifest[0].clone();
    other["path"] = json!("/mnt/other");
    other["nonce"] = json!("0a".repeat(16));
    fixture.manifest.push(other);
    fixture.assert_fails("/mnt/other: data unit 0");
    fixture.assert_fails("data unit number 0 (the right one) and the key of /mnt/file");
}

#[test]
fn plaintext_instead_of_ciphertext_is_caught_and_named() {
    let mut fixture = Fixture::per_file();
    let plaintext = fs::read(fixture.path("plain/file")).expect("plaintext");
    fixture.image[65 * BLOCK..66 * BLOCK].copy_from_slice(&plaintext[BLOCK..2 * BLOCK]);
    fixture.assert_fails("data unit 1 (image offset 266240, data unit number 1) is wrong from byte 0");
    fixture.assert_fails("this is plaintext");
    fixture.assert_fails(
        "8 blocks of 16 bytes are out of \"plaintext sentinel: 31 letters.\", the first at offset 266240",
    );
}

#[test]
fn zeros_instead_of_ciphertext_are_caught_and_named() {
    let mut fixture = Fixture::per_file();
    fixture.image[65 * BLOCK..66 * BLOCK].fill(0);
    fixture.assert_fails("these are zeros: never written, or discarded");
}

/// The report shows a few mismatches, the JSON has all.
#[test]
fn many_mismatches_are_counted() {
    let mut fixture = Fixture::new(Method::PerFileKey, 512);
    for (_, physical, length) in PLACES {
        fixture.image[physical..physical + length].fill(0x77);
    }
    fixture.assert_fails("... and 37 more data units\nciphertext NOT verified: 40 of 40 data units wrong");
    let json = fixture.verify().expect("verification").to_json();
    assert_eq!(json["mismatches"].as_array().map(Vec::len), Some(40));
}

/// All ciphertext is right, but plaintext is somewhere else on the image.
#[test]
fn a_plaintext_leak_anywhere_is_caught() {
    let mut fixture = Fixture::per_file();
    let at = IMAGE_SIZE - SENTINEL.len();
    fixture.image[at..].copy_from_slice(SENTINEL.as_bytes());
    fixture.assert_fails(&format!("the first at offset {}", at.next_multiple_of(16)));
}

/// As above, but only one block of the cipher, which may hold any part of the plaintext.
#[test]
fn a_leak_of_one_block_is_caught() {
    for phase in 0..=SENTINEL.len() - 16 {
        let mut fixture = Fixture::per_file();
        let at = 100 * BLOCK + 16 * phase;
        fixture.image[at..at + 16].copy_from_slice(&SENTINEL.as_bytes()[phase..phase + 16]);
        fixture.assert_fails(&format!(
            "plaintext on the image: 1 blocks of 16 bytes are out of \"{SENTINEL}\", the first at offset {at}"
        ));
    }
}

#[test]
fn a_search_that_would_prove_nothing_is_refused() {
    let fixture = Fixture::per_file();
    fs::write(fixture.path("sentinel"), "a text that is in no file of the test").expect("sentinel");
    fixture.assert_fails("occurs in none of the files");
    fs::write(fixture.path("sentinel"), "").expect("sentinel");
    fixture.assert_fails("no sentinel is named");
    fs::remove_file(fixture.path("sentinel")).expect("sentinel");
    fixture.assert_fails("sentinel");
}

#[test]
fn nothing_verified_is_a_failure() {
    let mut fixture = Fixture::per_file();
    fixture.manifest.clear();
    fixture.assert_fails("nothing verified");

    let mut fixture = Fixture::per_file();
    fixture.manifest[0]["extents"] = json!([]);
    fixture.assert_fails("have no written blocks on the disk");
}

#[test]
fn a_key_that_is_not_the_policys_is_named() {
    let fixture = Fixture::per_file();
    fs::write(fixture.path("keys"), format!("raw {}", "42".repeat(64))).expect("keys");
    fixture.assert_fails("none of the keys has the identifier");
}

#[test]
fn a_plaintext_of_another_length_is_refused() {
    let mut fixture = Fixture::per_file();
    fixture.manifest[0]["size"] = json!(4 * BLOCK + 776);
    fixture.assert_fails("its plaintext copy");
}

#[test]
fn an_image_that_ends_too_early_is_refused() {
    let mut fixture = Fixture::per_file();
    fixture.image.truncate(66 * BLOCK);
    fixture.assert_fails("/mnt/file: 12288 bytes at image offset 262144");
}

#[test]
fn areas_beside_the_files() {
    let mut fixture = Fixture::per_file();
    let key: [u8; 64] = std::array::from_fn(|i| 255 - i as u8);
    let (dm_at, plain_at) = (100 * BLOCK, 120 * BLOCK);
    let secret: Vec<u8> = (0..8 * 512).map(|i| (i * 13) as u8).collect();
    let mut xts = Xts::new(&key).expect("XTS");
    for (i, sector) in secret.chunks(512).enumerate() {
        let ciphertext = xts.encrypt(i as u128, sector).expect("encrypt");
        fixture.image[dm_at + i * 512..][..512].copy_from_slice(&ciphertext);
    }
    fs::write(fixture.path("plain/secret"), &secret).expect("plaintext");
    fs::write(fixture.path("plain/open"), &fixture.image[plain_at..plain_at + 1024]).expect("plaintext");
    fixture.manifest.push(json!({
        "kind": "xts", "path": "dm-crypt", "plain": "secret", "offset": dm_at, "key": hex::encode(&key),
        "data_unit_size": 512,
    }));
    fixture.manifest.push(json!({"kind": "plain", "path": "beside", "plain": "open", "offset": plain_at}));
    let report = fixture.verify().expect("verification");
    assert!(report.is_verified(), "{report}");
    assert_eq!((report.files, report.plain_areas, report.plain_bytes), (2, 1, 1024));

    fixture.image[plain_at + 600] ^= 1;
    fixture.assert_fails("beside: data unit 1");
    fixture.image[plain_at + 600] ^= 1;
    fixture.image[dm_at + 600] ^= 1;
    fixture.assert_fails("dm-crypt: data unit 1");
}
