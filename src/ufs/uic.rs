// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The link to the UFS device: UIC commands, and the attributes of both ends.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::protocol::{attribute::*, interrupt, status, uic};
use crate::faults::Op;

/// The maximum number of attributes that a driver may add.
const MOST_ATTRIBUTES: usize = 256;

/// Attributes of each end after power-on. UFS 3.1 has high-speed gear 4 and two lanes.
const INITIAL: &[(u16, u32)] = &[
    (PA_AVAILTXDATALANES, 2),
    (PA_AVAILRXDATALANES, 2),
    (PA_CONNECTEDTXDATALANES, 2),
    (PA_CONNECTEDRXDATALANES, 2),
    (PA_ACTIVETXDATALANES, 1),
    (PA_ACTIVERXDATALANES, 1),
    (PA_LOCAL_TX_LCC_ENABLE, 0),
    (PA_TXGEAR, 1),
    (PA_RXGEAR, 1),
    // Slow-auto, both ways.
    (PA_PWRMODE, 0x55),
    (PA_MAXRXPWMGEAR, 4),
    (PA_MAXRXHSGEAR, 4),
    (PA_TACTIVATE, 1),
    (PA_GRANULARITY, 1),
];

type Attributes = BTreeMap<u32, u32>;

fn initial() -> Attributes {
    // The upper half of an attribute's number is the attribute, the lower one selects a lane.
    INITIAL.iter().map(|&(attribute, value)| (u32::from(attribute) << 16, value)).collect()
}

/// The link.
pub struct Link {
    local: Attributes,
    peer: Attributes,
    up: bool,
}

/// What a UIC command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// For UCMDARG2.
    pub result: u32,
    /// For UCMDARG3, of the commands that read.
    pub value: Option<u32>,
    /// Bits of IS.
    pub interrupts: u32,
    /// Bits of HCS.
    pub status: u32,
}

impl Link {
    /// A link that has not been started.
    pub fn new() -> Self {
        Self { local: initial(), peer: initial(), up: false }
    }

    /// Whether it has been started.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// The link is lost.
    pub fn lose(&mut self) {
        self.up = false;
    }

    /// Carries out a command with its first and third argument.
    pub fn command(&mut self, command: u32, attribute: u32, value: u32) -> Outcome {
        let mut outcome = Outcome { result: uic::SUCCESS, value: None, interrupts: interrupt::UIC_COMMAND, status: 0 };
        let power = |outcome: &mut Outcome, interrupt| {
            outcome.interrupts |= interrupt;
            outcome.status = status::POWER_LOCAL;
        };
        match command & 0xff {
            uic::GET => match self.local.get(&attribute) {
                Some(value) => outcome.value = Some(*value),
                None => outcome.result = uic::INVALID_ATTRIBUTE,
            },
            uic::SET => {
                outcome.result = set(&mut self.local, attribute, value);
                if attribute >> 16 == u32::from(PA_PWRMODE) && outcome.result == uic::SUCCESS {
                    power(&mut outcome, interrupt::POWER_MODE);
                }
            }
            uic::PEER_GET | uic::PEER_SET if !self.up => outcome.result = uic::PEER_FAILURE,
            uic::PEER_GET => match self.peer.get(&attribute) {
                Some(value) => outcome.value = Some(*value),
                None => outcome.result = uic::INVALID_ATTRIBUTE,
            },
            uic::PEER_SET => outcome.result = set(&mut self.peer, attribute, value),
            uic::LINK_STARTUP => self.up = true,
            uic::HIBERNATE_ENTER if self.up => power(&mut outcome, interrupt::HIBERNATE_ENTER),
            uic::HIBERNATE_EXIT if self.up => power(&mut outcome, interrupt::HIBERNATE_EXIT),
            uic::ENABLE | uic::RESET | uic::END_POINT_RESET => {}
            _ => outcome.result = uic::FAILURE,
        }
        outcome
    }
}

/// The operation of a command, of those that faults can strike.
pub fn operation(command: u32, attribute: u32) -> Option<Op> {
    match command & 0xff {
        uic::HIBERNATE_ENTER => Some(Op::HibernateEnter),
        uic::HIBERNATE_EXIT => Some(Op::HibernateExit),
        uic::LINK_STARTUP => Some(Op::LinkStartup),
        uic::SET if attribute >> 16 == u32::from(PA_PWRMODE) => Some(Op::PowerMode),
        _ => None,
    }
}

/// The outcome of such a command when it fails. It changes nothing.
pub fn failure(op: Op) -> Outcome {
    let power = |interrupt| (uic::SUCCESS, interrupt, status::POWER_FATAL_ERROR);
    let (result, interrupt, status) = match op {
        Op::HibernateEnter => power(interrupt::HIBERNATE_ENTER),
        Op::HibernateExit => power(interrupt::HIBERNATE_EXIT),
        Op::PowerMode => power(interrupt::POWER_MODE),
        _ => (uic::FAILURE, 0, 0),
    };
    Outcome { result, value: None, interrupts: interrupt::UIC_COMMAND | interrupt, status }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

fn set(attributes: &mut Attributes, attribute: u32, value: u32) -> u32 {
    if attributes.len() >= INITIAL.len() + MOST_ATTRIBUTES && !attributes.contains_key(&attribute) {
        return uic::INVALID_ATTRIBUTE;
    }
    attributes.insert(attribute, value);
    uic::SUCCESS
}
