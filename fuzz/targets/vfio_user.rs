// SPDX-License-Identifier: Apache-2.0 OR MIT
#![no_main]
#![allow(missing_docs)] // the macro's

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vhost_user_blk_crypto_fuzz::vfio_user::run(bytes));
