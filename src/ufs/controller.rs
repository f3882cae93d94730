// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The host controller: registers, doorbells, and the state of its transfer requests.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::crypto::CryptoRegisters;
use super::lu::LogicalUnits;
use super::pci::ConfigSpace;
use super::protocol::{enable, interrupt, register as reg, status};
use super::query::Query;
use super::registers::{Registers, at, crypto_place, set_at, with_lower, with_upper};
use super::transfer::{self, BusError, Context, Job, Reply};
use super::uic::{self, Link};
use crate::device::Device;
use crate::engine::{Failure, Worker};
use crate::faults::{Op, Subject};
use crate::ratelimit::log_limited;
use crate::vfio_user::protocol::region;
use crate::vhost::refusal::SHARE;

/// The maximum number of transfer requests at a time.
pub const MOST_TRANSFERS: u16 = 32;
pub(super) const TASKS: u32 = 8;

/// What the session must do after a write to a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing more.
    Nothing,
    /// Begin these transfer requests.
    Transfers(u32),
    /// Execute these task management requests.
    Tasks(u32),
    /// The driver has cleared these transfer requests.
    Clear(u32),
    /// Change this keyslot.
    Key(u32),
    /// Drain all requests, then call [`Controller::disable`].
    Disable,
}

/// A controller with the UFS device behind it.
pub struct Controller {
    device: Arc<Device>,
    pub(super) units: LogicalUnits,
    depth: u8,
    pci: ConfigSpace,
    pub(super) registers: Registers,
    /// Transfer requests that the engine executes, one bit each, as in the doorbell.
    pub(super) in_engine: u32,
    /// Of these: the driver has cleared them.
    pub(super) given_up: u32,
    /// Of these: a task management request has aborted them.
    pub(super) aborted: u32,
    /// The logical unit of each of them.
    pub(super) luns: [u8; MOST_TRANSFERS as usize],
    /// An injected fault has stopped the controller. It answers no request until it is disabled.
    pub(super) has_failed: bool,
    pub(super) link: Link,
    query: Query,
    /// The keyslots' registers.
    pub crypto: CryptoRegisters,
}

impl Controller {
    /// A controller after power-on.
    ///
    /// # Errors
    /// When the memory for keys cannot be locked.
    pub fn new(device: &Arc<Device>) -> io::Result<Self> {
        let settings = device.settings();
        Ok(Self {
            device: Arc::clone(device),
            units: LogicalUnits::new(Arc::clone(device)),
            depth: settings.queue_size.clamp(1, MOST_TRANSFERS) as u8, // at most 32
            pci: ConfigSpace::new(),
            registers: Registers::default(),
            in_engine: 0,
            given_up: 0,
            aborted: 0,
            luns: [0; MOST_TRANSFERS as usize],
            has_failed: false,
            link: Link::new(),
            query: Query::new(),
            crypto: CryptoRegisters::new(settings.engine.keyslots, settings.engine.data_unit_mask)?,
        })
    }

    fn is_enabled(&self) -> bool {
        self.registers.enable & enable::CONTROLLER != 0
    }

    /// Whether the interrupt line is asserted.
    pub fn interrupts(&self) -> bool {
        self.registers.interrupts & self.registers.interrupt_enable != 0
    }

    /// Disables the controller. Call it when no request is in flight.
    pub fn disable(&mut self) {
        let Registers { latency, auto_hibernate, .. } = self.registers;
        self.registers = Registers { latency, auto_hibernate, ..Registers::default() };
        (self.in_engine, self.given_up, self.aborted, self.has_failed) = (0, 0, 0, false);
        self.link = Link::new();
        self.crypto.reset();
    }

    /// Resets the PCI function. Call it when no request is in flight.
    pub fn reset(&mut self) {
        self.disable();
        self.registers = Registers::default();
        self.query = Query::new();
        self.pci = ConfigSpace::new();
    }

    /// Reads from a region, with any alignment and length.
    pub fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) {
        if region == region::CONFIG {
            return self.pci.read(offset, data);
        }
        // Copies parts of whole registers.
        let mut place = offset & !3;
        let mut rest = data;
        let mut skip = (offset & 3) as usize; // at most 3
        while !rest.is_empty() {
            let bytes = self.register(place).to_le_bytes();
            let bytes = bytes.get(skip..).unwrap_or_default();
            let count = bytes.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            (rest, skip, place) = (later, 0, place.saturating_add(4));
        }
    }

    /// Writes one whole register. Ignores other writes to BAR 0.
    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Action {
        if region == region::CONFIG {
            self.pci.write(offset, data);
            return Action::Nothing;
        }
        match <[u8; 4]>::try_from(data) {
            Ok(bytes) if offset & 3 == 0 => self.set_register(offset, u32::from_le_bytes(bytes)),
            _ => Action::Nothing,
        }
    }

    fn register(&mut self, offset: u64) -> u32 {
        let registers = &mut self.registers;
        match offset {
            // 64-bit addresses, crypto.
            reg::CAP => (u32::from(self.depth) - 1) | (TASKS - 1) << 16 | 1 << 24 | 1 << 28,
            reg::VER => 0x310,
            reg::AHIT => registers.auto_hibernate,
            reg::IS => registers.interrupts,
            reg::IE => registers.interrupt_enable,
            reg::HCS => self.status(),
            reg::HCE => registers.enable,
            reg::UECPA..=reg::UECDME => {
                let error = at(&registers.uic_errors, offset - reg::UECPA);
                // Reading clears it.
                set_at(&mut registers.uic_errors, offset - reg::UECPA, 0);
                error
            }
            reg::UTRIACR => registers.aggregation,
            reg::UTRLBA => registers.transfer_list as u32, // its lower half
            reg::UTRLBAU => (registers.transfer_list >> 32) as u32,
            reg::UTRLDBR => registers.doorbell,
            reg::UTRLRSR => registers.transfer_run.into(),
            reg::UTRLCNR => registers.notifications,
            reg::UTMRLBA => registers.task_list as u32, // its lower half
            reg::UTMRLBAU => (registers.task_list >> 32) as u32,
            reg::UTMRLDBR => registers.task_doorbell,
            reg::UTMRLRSR => registers.task_run.into(),
            reg::UICCMD => registers.uic_command,
            reg::UCMDARG1..=reg::UCMDARG3 => at(&registers.uic_arguments, offset - reg::UCMDARG1),
            reg::CCAP => self.crypto.ccap(reg::CRYPTOCFG),
            reg::CRYPTOCAP => self.crypto.capability(),
            reg::INTEL_ACTIVELTR | reg::INTEL_IDLELTR => at(&registers.latency, offset - reg::INTEL_ACTIVELTR),
            reg::CRYPTOCFG.. => {
                let (slot, dword) = crypto_place(offset);
                self.crypto.read(slot, dword)
            }
            _ => 0,
        }
    }

    fn status(&self) -> u32 {
        let mut bits = self.registers.power_status;
        if self.is_enabled() {
            bits |= status::UIC_READY;
            if self.link.is_up() {
                bits |= status::DEVICE_PRESENT | status::TRANSFER_LIST_READY | status::TASK_LIST_READY;
            }
        }
        bits
    }

    fn set_register(&mut self, offset: u64, value: u32) -> Action {
        match offset {
            reg::HCE => return self.set_enable(value),
            reg::AHIT => self.registers.auto_hibernate = value,
            reg::INTEL_ACTIVELTR | reg::INTEL_IDLELTR => {
                set_at(&mut self.registers.latency, offset - reg::INTEL_ACTIVELTR, value);
            }
            // Drivers program keys before they enable the controller.
            reg::CRYPTOCFG.. => {
                let (slot, dword) = crypto_place(offset);
                if self.crypto.write(slot, dword, value) {
                    return Action::Key(slot);
                }
            }
            _ if !self.is_enabled() => {}
            offset => return self.set_while_enabled(offset, value),
        }
        Action::Nothing
    }

    fn set_enable(&mut self, value: u32) -> Action {
        if value & enable::CONTROLLER == 0 {
            return if self.is_enabled() { Action::Disable } else { Action::Nothing };
        }
        self.registers.enable = value & (enable::CONTROLLER | enable::CRYPTO);
        Action::Nothing
    }

    fn set_while_enabled(&mut self, offset: u64, value: u32) -> Action {
        let registers = &mut self.registers;
        match offset {
            reg::IS => registers.interrupts &= !value,
            reg::IE => registers.interrupt_enable = value,
            reg::UTRIACR => registers.aggregation = value,
            // Lists are aligned to 1 KiB.
            reg::UTRLBA => registers.transfer_list = with_lower(registers.transfer_list, value & !0x3ff),
            reg::UTRLBAU => registers.transfer_list = with_upper(registers.transfer_list, value),
            reg::UTRLDBR if registers.transfer_run && (self.link.is_up() || self.has_failed) => {
                let existing = u32::MAX >> (32 - u32::from(self.depth));
                let new = value & existing & !registers.doorbell;
                registers.doorbell |= new;
                return if self.has_failed { Action::Nothing } else { Action::Transfers(new) };
            }
            reg::UTRLCLR => return Action::Clear(!value & registers.doorbell),
            reg::UTRLRSR => registers.transfer_run = value & 1 != 0,
            reg::UTRLCNR => registers.notifications &= !value,
            reg::UTMRLBA => registers.task_list = with_lower(registers.task_list, value & !0x3ff),
            reg::UTMRLBAU => registers.task_list = with_upper(registers.task_list, value),
            reg::UTMRLDBR if registers.task_run && (self.link.is_up() || self.has_failed) => {
                let new = value & ((1 << TASKS) - 1) & !registers.task_doorbell;
                registers.task_doorbell |= new;
                return if self.has_failed { Action::Nothing } else { Action::Tasks(new) };
            }
            reg::UTMRLCLR => registers.task_doorbell &= value,
            reg::UTMRLRSR => registers.task_run = value & 1 != 0,
            reg::UICCMD => {
                registers.uic_command = value;
                let [attribute, _, argument] = registers.uic_arguments;
                let outcome = match uic::operation(value, attribute).filter(|op| fails(&self.device, *op)) {
                    Some(op) => uic::failure(op),
                    None => self.link.command(value, attribute, argument),
                };
                let [_, result, read] = &mut registers.uic_arguments;
                *result = *result & !0xff | outcome.result;
                *read = outcome.value.unwrap_or(*read);
                registers.interrupts |= outcome.interrupts;
                registers.power_status = outcome.status;
            }
            reg::UCMDARG1..=reg::UCMDARG3 => set_at(&mut registers.uic_arguments, offset - reg::UCMDARG1, value),
            _ => {}
        }
        Action::Nothing
    }

    /// Begins a transfer request. `None`: it has been answered already, or a fault has stopped the controller.
    pub fn begin<'m>(&mut self, slot: u8, memory: &'m GuestMemoryMmap, worker: &'m Worker) -> Option<Job<'m>> {
        if self.has_failed {
            return None;
        }
        let context = Context {
            list: self.registers.transfer_list,
            depth: self.depth,
            crypto_enabled: self.registers.enable & enable::CRYPTO != 0,
            crypto: &self.crypto,
            units: &self.units,
            query: &mut self.query,
        };
        match transfer::begin(context, slot, memory, worker) {
            Ok(Some((job, lun))) => {
                self.in_engine |= 1u32.checked_shl(slot.into()).unwrap_or(0);
                if let Some(place) = self.luns.get_mut(usize::from(slot)) {
                    *place = lun;
                }
                return Some(job);
            }
            Ok(None) => self.completed(slot),
            Err(BusError) => self.bus_error(),
        }
        None
    }

    /// The engine has executed a transfer request: answers it.
    pub fn finish(&mut self, reply: &Reply, memory: &GuestMemoryMmap, result: Result<(), Failure>) {
        let bit = 1u32.checked_shl(reply.slot.into()).unwrap_or(0);
        self.in_engine &= !bit;
        if !self.is_wanted(bit) || matches!(result, Err(Failure::Controller(fault)) if self.fail(fault)) {
            return;
        }
        match reply.finish(memory, result) {
            Ok(()) => self.completed(reply.slot),
            Err(BusError) => self.bus_error(),
        }
    }

    fn completed(&mut self, slot: u8) {
        let bit = 1u32.checked_shl(slot.into()).unwrap_or(0);
        self.registers.doorbell &= !bit;
        self.registers.notifications |= bit;
        self.registers.interrupts |= interrupt::TRANSFER_COMPLETION;
    }

    /// Part of guest memory is missing. The driver will reset the controller.
    pub(super) fn bus_error(&mut self) {
        log_limited!(warn, "a descriptor of the UFS driver is not in guest memory that QEMU shares; {SHARE}");
        self.registers.interrupts |= interrupt::SYSTEM_BUS_FATAL;
    }
}

/// Whether a fault strikes a UIC command.
fn fails(device: &Device, op: Op) -> bool {
    let subject = Subject { op, queue: 0, lun: 0, slot: None, digested: false, extents: &[] };
    let fails = device.faults().armed() && device.faults().strike(&subject).is_some();
    if fails {
        device.observer().count_fault();
    }
    fails
}
