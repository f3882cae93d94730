// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Hostile guests. Each target turns arbitrary bytes into structured actions, runs them on the real device with its
//! disk in memory, and checks what must hold for every guest. The same functions run under libFuzzer (`cargo xtask
//! fuzz`), and with random bytes and the corpus in `cargo test`.

mod books;
pub mod config_space;
mod disks;
mod guest;
pub mod inflight;
pub mod keyslots;
mod layout;
mod meddled;
mod model;
mod patience;
pub mod request_keys;
pub mod requests;
mod ufs;
pub mod ufs_registers;
pub mod ufs_transfers;
pub mod vfio_user;
pub mod virtqueues;
mod wire;

/// Whether to print the meaning of an input: if the environment has FUZZ_SHOW.
fn shown() -> bool {
    static SHOWN: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| std::env::var_os("FUZZ_SHOW").is_some());
    *SHOWN
}
