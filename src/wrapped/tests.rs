// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::os::unix::fs::PermissionsExt;

use super::*;

/// OpenSSL's Rust binding has no KBKDF, so the counter mode is written out here over OpenSSL's CMAC.
fn openssl_kdf(key: &[u8; 32], context: &[u8], len: usize) -> Vec<u8> {
    use openssl::pkey::PKey;
    use openssl::sign::Signer;
    use openssl::symm::Cipher;
    let pkey = PKey::cmac(&Cipher::aes_256_cbc(), key).expect("OpenSSL");
    (1u32..)
        .flat_map(|counter| {
            let mut signer = Signer::new_without_digest(&pkey).expect("OpenSSL");
            let label = [0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0x20];
            let input = [&counter.to_be_bytes()[..], &label, &[0], context, &(len as u32 * 8).to_be_bytes()].concat();
            signer.sign_oneshot_to_vec(&input).expect("OpenSSL")
        })
        .take(len)
        .collect()
}

#[test]
fn kdf_equals_openssl_cmac_in_counter_mode() {
    for seed in 0..50u8 {
        let key: [u8; 32] = std::array::from_fn(|i| seed.wrapping_mul(37).wrapping_add(i as u8));
        let inline = [&b"inline encryption key"[..], &[0; 6], &[2, 0x43, 0, 0x82, 0x50], &[0; 4]].concat();
        let secret = [&b"raw secret"[..], &[0; 9], &[2, 0x17, 0, 0x80, 0x50], &[0; 4]].concat();
        assert_eq!((inline.len(), secret.len()), (36, 28));
        assert_eq!(kdf::inline_encryption_key(&key).to_vec(), openssl_kdf(&key, &inline, 64));
        assert_eq!(kdf::software_secret(&key).to_vec(), openssl_kdf(&key, &secret, 32));
    }
}

/// Known answers, made with `openssl kdf ... KBKDF` of OpenSSL 3.0.
#[test]
fn kdf_equals_openssl_kbkdf() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let key = std::array::from_fn(|i| i as u8);
    assert_eq!(
        hex(&*kdf::inline_encryption_key(&key)),
        "16317c8fe3133e7aef46bdede2b39f09a81e9fbe0c095f906c5c1341da6eaf17\
         f151e2982f4f14a5495f78761066cafa5ebb995997d3fb5c8678bb394b6b57dc"
    );
    assert_eq!(hex(&*kdf::software_secret(&key)), "48b69fb100fda3d600b75d7f25e2b8f1cf95e5de1bd624b9273d537519270c65");
}

fn wrapping() -> Wrapping {
    Wrapping::new(None).expect("wrapping keys")
}

#[test]
fn import_prepare_use() {
    let wrapping = wrapping();
    let raw = [7; 32];
    let long_term = wrapping.import(&raw).expect("import");
    let ephemeral = wrapping.prepare(&long_term).expect("prepare");
    assert_eq!(*wrapping.inline_key(&ephemeral).expect("key"), *kdf::inline_encryption_key(&raw));
    assert_eq!(*wrapping.sw_secret(&ephemeral).expect("secret"), *kdf::software_secret(&raw));
    // Nonces are random: the same key never gives the same blob.
    assert_ne!(wrapping.import(&raw), Ok(long_term));
    assert_ne!(wrapping.prepare(&long_term), Ok(ephemeral));
    assert!(!long_term.windows(8).any(|bytes| bytes == [7; 8]), "the key is in the blob");
}

#[test]
fn generated_keys_differ() {
    let wrapping = wrapping();
    let secret = || {
        let blob = wrapping.prepare(&wrapping.generate().expect("generate")).expect("prepare");
        wrapping.sw_secret(&blob).expect("secret").to_vec()
    };
    assert_ne!(secret(), secret());
}

#[test]
fn imports_have_32_bytes() {
    let wrapping = wrapping();
    for len in [0, 1, 16, 31, 33, 64, 128] {
        assert_eq!(wrapping.import(&vec![1; len]), Err(WrapError::BadKey), "{len}");
    }
}

#[test]
fn forms_are_not_interchangeable() {
    let wrapping = wrapping();
    let long_term = wrapping.generate().expect("generate");
    let ephemeral = wrapping.prepare(&long_term).expect("prepare");
    assert_eq!(wrapping.prepare(&ephemeral), Err(WrapError::BadKey));
    assert_eq!(wrapping.inline_key(&long_term).err(), Some(WrapError::BadKey));
    assert_eq!(wrapping.sw_secret(&long_term).err(), Some(WrapError::BadKey));
    // Nor after a change of the form byte.
    let mut relabelled = long_term;
    relabelled[5] = 2;
    assert_eq!(wrapping.inline_key(&relabelled).err(), Some(WrapError::BadKey));
}

#[test]
fn every_flipped_bit_and_every_other_length_is_refused() {
    let wrapping = wrapping();
    let blob = wrapping.generate().expect("generate");
    assert!(wrapping.prepare(&blob).is_ok());
    for bit in 0..blob.len() * 8 {
        let mut flipped = blob;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(wrapping.prepare(&flipped), Err(WrapError::BadKey), "bit {bit}");
    }
    for len in 0..blob.len() {
        assert_eq!(wrapping.prepare(&blob[..len]), Err(WrapError::BadKey), "{len} bytes");
    }
    assert_eq!(wrapping.prepare(&[&blob[..], &[0]].concat()), Err(WrapError::BadKey));
}

#[test]
fn blobs_of_another_device_are_refused() {
    let (one, other) = (wrapping(), wrapping());
    let long_term = one.generate().expect("generate");
    assert_eq!(other.prepare(&long_term), Err(WrapError::BadKey));
    let ephemeral = one.prepare(&long_term).expect("prepare");
    assert_eq!(other.inline_key(&ephemeral).err(), Some(WrapError::BadKey));
}

#[test]
fn the_long_term_key_lives_in_its_file() {
    let directory = tempfile::TempDir::new().expect("directory");
    let path = directory.path().join("wrapping.key");
    let first = Wrapping::new(Some(&path)).expect("made");
    let metadata = std::fs::metadata(&path).expect("file");
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (32, 0o600));
    let blob = first.import(&[9; 32]).expect("import");
    let ephemeral = first.prepare(&blob).expect("prepare");
    // The next start of the same hardware: long-term keys remain valid, ephemeral ones do not.
    let second = Wrapping::new(Some(&path)).expect("read");
    let again = second.prepare(&blob).expect("prepare");
    assert_eq!(*second.sw_secret(&again).expect("secret"), *kdf::software_secret(&[9; 32]));
    assert!(second.sw_secret(&ephemeral).is_err());
}

#[test]
fn bad_files_say_what_to_do() {
    let directory = tempfile::TempDir::new().expect("directory");
    let path = directory.path().join("key");
    let error = || Wrapping::new(Some(&path)).expect_err("must be refused").to_string();
    let write = |bytes: &[u8], mode| {
        std::fs::write(&path, bytes).expect("file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
    };
    for bytes in [&[][..], &[1; 31], &[1; 33], &[1; 5000]] {
        write(bytes, 0o600);
        assert!(error().contains("32 bytes"));
    }
    write(&[1; 32], 0o644);
    assert!(error().contains("chmod 600"));
    write(&[1; 32], 0o600);
    assert!(Wrapping::new(Some(&path)).is_ok());
    assert!(Wrapping::new(Some(&directory.path().join("no/such"))).is_err());
}

#[test]
fn debug_shows_no_key() {
    assert_eq!(format!("{:?}", wrapping()), "Wrapping([redacted])");
}
