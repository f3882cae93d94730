// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Faults as text: `KIND[=VALUE][,NAME=VALUE]...`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::condition::{Condition, Op, Ops};
use super::kind::{ControllerFault, FaultKind, Short};
use super::words::{duration, number, probability, range};

/// A fault as a user describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    text: String,
    pub(super) kind: FaultKind,
    pub(super) condition: Condition,
}

/// What is wrong with a specification, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub(super) String);

const KINDS: &str = "io-error, delay=TIME, reorder[=N], short[=BYTES], stuck, lose-key, lose-all-keys, dun-not-incremented, \
    dun-32-bit, dun-byte-order, data-unit=BYTES, key-halves-swapped, previous-key, plaintext, bit-flip[=N], \
    wrong-digest[=N]; of a UFS host controller: ocs=STATUS, link-lost, link-error, crypto-fatal-error, uic-failure";
const CONDITIONS: &str = "op, sector, slot, queue, lun, nth, count, probability, seed, after";

/// The maximum number of completions that are held back for reordering.
const MOST_REORDERED: u64 = 64;

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut words = text.split(',').map(|word| match word.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (word.trim(), None),
        });
        let (name, value) = words.next().unwrap_or_default();
        let mut kind = kind(name, value)?;
        let mut condition = Condition {
            ops: kind.ops(),
            encrypted_only: kind.encrypted_only(),
            digested_only: kind.digested_only(),
            sectors: None,
            slots: None,
            queues: None,
            luns: None,
            nth: 1,
            count: None,
            probability: None,
            seed: 0,
            after: Duration::ZERO,
        };
        let mut seen = Vec::new();
        for (name, value) in words {
            if seen.contains(&name) {
                return Err(SpecError(format!("{name} is given twice")));
            }
            seen.push(name);
            let value = value.ok_or_else(|| SpecError(format!("{name:?} has no value; write {name}=VALUE")))?;
            if !detail(&mut kind, name, value)? && !condition.set(name, value)? {
                return Err(SpecError(format!("there is no condition {name:?}; there are {CONDITIONS}")));
            }
        }
        if !condition.ops.is_in(kind.ops()) {
            return Err(SpecError(format!("{text}: this fault strikes only {}", kind.ops_text())));
        }
        Ok(Self { text: text.into(), kind, condition })
    }
}

fn kind(name: &str, value: Option<&str>) -> Result<FaultKind, SpecError> {
    let needed = || value.ok_or_else(|| SpecError(format!("{name} needs a value; write {name}=VALUE")));
    let or = |default: u64, allowed| value.map_or(Ok(default), |value| number(name, value, allowed));
    let kind = match name {
        "io-error" => FaultKind::IoError,
        "delay" => return Ok(FaultKind::Delay(duration(name, needed()?)?)),
        "reorder" => return Ok(FaultKind::Reorder { window: or(8, 2..=MOST_REORDERED)? as usize }), // at most 64
        "short" => {
            let bytes = value.map(|value| number(name, value, 0..=u64::MAX)).transpose()?;
            return Ok(FaultKind::Short(Short { bytes, claims_success: false }));
        }
        "stuck" => FaultKind::Stuck,
        "lose-key" => FaultKind::LoseKey,
        "lose-all-keys" => FaultKind::LoseAllKeys,
        "dun-not-incremented" => FaultKind::DunNotIncremented,
        "dun-32-bit" => FaultKind::Dun32Bit,
        "dun-byte-order" => FaultKind::DunByteOrder,
        "data-unit" => {
            let size = number(name, needed()?, 512..=65536)?;
            if !size.is_power_of_two() {
                return Err(SpecError(format!("data-unit={size}: not a power of two from 512 to 65536")));
            }
            return Ok(FaultKind::DataUnit(size.ilog2() as u8)); // at most 16
        }
        "key-halves-swapped" => FaultKind::KeyHalvesSwapped,
        "previous-key" => FaultKind::PreviousKey,
        "plaintext" => FaultKind::Plaintext,
        "bit-flip" => return Ok(FaultKind::BitFlip { every: or(1, 1..=u64::MAX)?, bit: 0 }),
        "ocs" => {
            let value = needed()?;
            let found = ControllerFault::STATUSES.iter().find(|(name, _)| *name == value);
            let fault = found.map(|(_, fault)| FaultKind::Controller(*fault));
            return fault.ok_or_else(|| {
                let names = ControllerFault::STATUSES.map(|(name, _)| name).join(", ");
                SpecError(format!("ocs={value}: there is no such status; there are {names}"))
            });
        }
        "link-lost" => FaultKind::Controller(ControllerFault::LinkLost),
        "link-error" => FaultKind::Controller(ControllerFault::LinkError),
        "crypto-fatal-error" => FaultKind::Controller(ControllerFault::CryptoFatalError),
        "uic-failure" => FaultKind::UicFailure,
        "wrong-digest" => return Ok(FaultKind::WrongDigest { every: or(1, 1..=u64::MAX)? }),
        _ => return Err(SpecError(format!("there is no fault {name:?}; there are {KINDS}"))),
    };
    match value {
        None => Ok(kind),
        Some(value) => Err(SpecError(format!("{name}={value}: {name} has no value; write {name} alone"))),
    }
}

/// Sets a parameter of the kind. Returns false if it has no such parameter.
fn detail(kind: &mut FaultKind, name: &str, value: &str) -> Result<bool, SpecError> {
    match (kind, name) {
        (FaultKind::Short(short), "status") => {
            short.claims_success = match value {
                "ok" => true,
                "ioerr" => false,
                _ => return Err(SpecError(format!("status={value}: write status=ok or status=ioerr"))),
            };
        }
        (FaultKind::BitFlip { bit, .. }, "bit") => *bit = number(name, value, 0..=4095)? as u32, // fits
        _ => return Ok(false),
    }
    Ok(true)
}

impl Condition {
    /// Returns false if there is no such condition.
    fn set(&mut self, name: &str, value: &str) -> Result<bool, SpecError> {
        match name {
            "op" => self.ops = ops(value)?,
            "sector" => self.sectors = Some(range(name, value)?),
            "slot" => self.slots = Some(range(name, value)?),
            "queue" => self.queues = Some(range(name, value)?),
            "lun" => self.luns = Some(range(name, value)?),
            "nth" => self.nth = number(name, value, 1..=u64::MAX)?,
            "count" => self.count = Some(number(name, value, 1..=u64::MAX)?),
            "probability" => self.probability = probability(name, value)?,
            "seed" => self.seed = number(name, value, 0..=u64::MAX)?,
            "after" => self.after = duration(name, value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn ops(text: &str) -> Result<Ops, SpecError> {
    let mut ops = Ops::default();
    for name in text.split('+') {
        match Op::ALL.iter().find(|op| op.name() == name) {
            Some(op) => ops.add(*op),
            None => {
                let names: Vec<_> = Op::ALL.iter().map(|op| op.name()).collect();
                return Err(SpecError(format!(
                    "there is no operation {name:?}; there are {}, with a + between several",
                    names.join(", ")
                )));
            }
        }
    }
    Ok(ops)
}

#[cfg(test)]
mod tests;
