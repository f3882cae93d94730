// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What happens to one request: all faults that strike it, together.

use std::time::Duration;

use super::kind::{ControllerFault, FaultKind, Short};

/// Keys to lose before a request is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// The key of its own slot.
    Slot,
    /// All.
    All,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Its queue.
    pub queue: usize,
    /// It waits until the fault with this number is gone.
    pub stuck: Option<u64>,
    /// Keys are lost first.
    pub loss: Option<Loss>,
    /// It fails.
    pub io_error: bool,
    /// The UFS host controller fails.
    pub controller: Option<ControllerFault>,
    /// Only a part is transferred.
    pub short: Option<Short>,
    /// It uses a broken engine.
    pub broken: Option<Breakage>,
    /// Digests are wrong of data units whose numbers are multiples of this.
    pub wrong_digest: Option<u64>,
    /// It is completed later.
    pub delay: Duration,
    /// It completes together with this many others, in another order.
    pub reorder: Option<usize>,
}

/// Which key an engine uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhichKey {
    /// The right one.
    #[default]
    Right,
    /// Its halves swapped.
    Swapped,
    /// The previous one.
    Previous,
}

/// What is wrong with an engine. The default is a healthy one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breakage {
    /// All data units have the first one's number.
    pub not_incremented: bool,
    /// Numbers are cut to 32 bits.
    pub truncated: bool,
    /// Numbers are big-endian.
    pub big_endian: bool,
    /// Binary logarithm of a wrong data unit size.
    pub unit_bits: Option<u8>,
    /// The key.
    pub key: WhichKey,
    /// Data bypasses the engine.
    pub plaintext: bool,
    /// `(every, bit)`: the bit is flipped in data units whose numbers are multiples of `every`.
    pub flip: Option<(u64, u32)>,
}

impl Fate {
    pub(super) fn new(queue: usize) -> Self {
        Self {
            queue,
            stuck: None,
            loss: None,
            io_error: false,
            controller: None,
            short: None,
            broken: None,
            wrong_digest: None,
            delay: Duration::ZERO,
            reorder: None,
        }
    }

    /// Adds a fault. If two contradict each other, the later one counts.
    pub(super) fn add(&mut self, id: u64, kind: FaultKind) {
        match kind {
            FaultKind::IoError => self.io_error = true,
            FaultKind::Controller(fault) => self.controller = Some(fault),
            FaultKind::Delay(delay) => self.delay = self.delay.saturating_add(delay),
            FaultKind::Reorder { window } => self.reorder = Some(window),
            FaultKind::Short(short) => self.short = Some(short),
            FaultKind::Stuck => self.stuck = Some(id),
            FaultKind::LoseKey => self.loss = self.loss.max(Some(Loss::Slot)),
            FaultKind::LoseAllKeys => self.loss = Some(Loss::All),
            FaultKind::WrongDigest { every } => self.wrong_digest = Some(every),
            _ => self.broken.get_or_insert_default().add(kind),
        }
    }
}

impl Breakage {
    fn add(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::DunNotIncremented => self.not_incremented = true,
            FaultKind::Dun32Bit => self.truncated = true,
            FaultKind::DunByteOrder => self.big_endian = true,
            FaultKind::DataUnit(bits) => self.unit_bits = Some(bits),
            FaultKind::KeyHalvesSwapped => self.key = WhichKey::Swapped,
            FaultKind::PreviousKey => self.key = WhichKey::Previous,
            FaultKind::Plaintext => self.plaintext = true,
            FaultKind::BitFlip { every, bit } => self.flip = Some((every, bit)),
            _ => {}
        }
    }
}
