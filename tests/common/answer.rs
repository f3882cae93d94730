// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Answers to requests.

use test_driver::data::FILL;

/// The writable part of a completed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The used length.
    pub used: u32,
    /// All but the last byte.
    pub data: Vec<u8>,
    /// The last byte.
    pub status: u8,
}

impl Answer {
    pub fn new(used: u32, mut writable: Vec<u8>) -> Self {
        let status = writable.pop().unwrap_or(FILL);
        Self { used, data: writable, status }
    }

    /// Asserts the status, and that nothing else was written.
    pub fn assert_only_status(&self, status: u8) {
        assert_eq!((self.status, self.used), (status, 1), "{self:?}");
        assert!(self.data.iter().all(|&byte| byte == FILL), "the device wrote data: {:?}", self.data);
    }
}
