// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The unit attention that tells a driver of another size of the image: the next command fails with it, once.
#![forbid(unsafe_code)]

use std::cell::Cell;

use super::protocol::scsi;

/// The size that the driver of a logical unit may know.
#[derive(Debug)]
pub struct CapacityWatch(Cell<u64>);

impl CapacityWatch {
    /// The driver finds this many bytes when it looks.
    pub fn new(bytes: u64) -> Self {
        Self(Cell::new(bytes))
    }

    /// Whether a command has to fail, because the size is another one than before. Some commands never do (SAM-5, 5.14).
    pub fn has_changed(&self, bytes: u64, opcode: u8) -> bool {
        !matches!(opcode, scsi::INQUIRY | scsi::REPORT_LUNS | scsi::REQUEST_SENSE) && self.0.replace(bytes) != bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let watch = CapacityWatch::new(10);
        assert!(!watch.has_changed(10, scsi::READ_10));
        assert!(!watch.has_changed(20, scsi::INQUIRY));
        assert!(watch.has_changed(20, scsi::READ_10) && !watch.has_changed(20, scsi::READ_10));
        assert!(watch.has_changed(30, scsi::TEST_UNIT_READY));
    }
}
