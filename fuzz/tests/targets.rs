// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The targets with random bytes, and with the corpus of inputs that fuzzing has found interesting.

use proptest::prelude::*;

/// Every file of a target's corpus.
fn corpus(name: &str, run: fn(&[u8])) {
    let directory = format!("{}/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).expect("corpus") {
        let path = entry.expect("corpus").path();
        println!("{}", path.display()); // the last one shown is the one that fails
        run(&std::fs::read(&path).expect("corpus"));
        count += 1;
    }
    assert!(count > 0, "{directory} is empty");
}

macro_rules! target {
    ($name:ident) => {
        mod $name {
            use super::*;

            #[test]
            fn corpus() {
                super::corpus(stringify!($name), vhost_user_blk_crypto_fuzz::$name::run);
            }

            proptest! {
                #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]
                #[test]
                fn random(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
                    vhost_user_blk_crypto_fuzz::$name::run(&bytes);
                }
            }
        }
    };
}

target!(config_space);
target!(inflight);
target!(keyslots);
target!(request_keys);
target!(requests);
target!(ufs_registers);
target!(ufs_transfers);
target!(vfio_user);
target!(virtqueues);
