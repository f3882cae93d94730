// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The controller's registers, and what becomes of its transfer and task management requests.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::crypto::CryptoRegisters;
use super::lu::LogicalUnit;
use super::pci::ConfigSpace;
use super::protocol::{
    Ocs, TaskDescriptor, TaskUpiu, UpiuHeader, enable, interrupt, register as reg, status, task, transaction,
};
use super::query::Query;
use super::transfer::{self, BusError, Context, Job, Reply};
use super::uic::Link;
use crate::device::Device;
use crate::engine::{Failure, Worker};
use crate::vfio_user::protocol::region;

/// The most transfer requests at a time.
pub const MOST_TRANSFERS: u16 = 32;
const TASKS: u32 = 8;

/// What a write leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing more.
    Nothing,
    /// These transfer requests begin.
    Transfers(u32),
    /// These task management requests are made.
    Tasks(u32),
    /// These transfer requests are given up.
    Clear(u32),
    /// A keyslot changes.
    Key(u32),
    /// The controller is disabled, once nothing is in flight: see [`Controller::disable`].
    Disable,
}

/// Registers that a driver writes and the controller only remembers or looks at.
#[derive(Debug, Default)]
struct Registers {
    enable: u32,
    interrupts: u32,
    interrupt_enable: u32,
    power_status: u32,
    auto_hibernate: u32,
    aggregation: u32,
    transfer_list: u64,
    transfer_run: bool,
    doorbell: u32,
    notifications: u32,
    task_list: u64,
    task_run: bool,
    task_doorbell: u32,
    uic_arguments: [u32; 3],
    uic_command: u32,
    latency: [u32; 2],
}

/// A controller with the UFS device behind it.
pub struct Controller {
    lu: LogicalUnit,
    depth: u8,
    pci: ConfigSpace,
    registers: Registers,
    /// Transfer requests that the engine has.
    in_engine: u32,
    /// Those of them that nobody wants any more.
    given_up: u32,
    link: Link,
    query: Query,
    /// The keyslots' registers.
    pub crypto: CryptoRegisters,
}

impl Controller {
    /// As after power-on.
    ///
    /// # Errors
    /// When no memory can be locked.
    pub fn new(device: &Arc<Device>) -> io::Result<Self> {
        let settings = device.settings();
        Ok(Self {
            lu: LogicalUnit::new(Arc::clone(device)),
            depth: settings.queue_size.clamp(1, MOST_TRANSFERS) as u8, // at most 32
            pci: ConfigSpace::new(),
            registers: Registers::default(),
            in_engine: 0,
            given_up: 0,
            link: Link::new(),
            query: Query::new(),
            crypto: CryptoRegisters::new(settings.engine.keyslots, settings.engine.data_unit_mask)?,
        })
    }

    fn is_enabled(&self) -> bool {
        self.registers.enable & enable::CONTROLLER != 0
    }

    /// Whether the interrupt line is up.
    pub fn interrupts(&self) -> bool {
        self.registers.interrupts & self.registers.interrupt_enable != 0
    }

    /// Whether requests are in flight that have been given up.
    pub fn has_given_up(&self) -> bool {
        self.given_up != 0
    }

    /// Gives all transfer requests up.
    pub fn give_all_up(&mut self) {
        self.given_up = self.registers.doorbell & self.in_engine;
    }

    /// The controller has been disabled, and nothing is in flight any more.
    pub fn disable(&mut self) {
        let Registers { latency, auto_hibernate, .. } = self.registers;
        self.registers = Registers { latency, auto_hibernate, ..Registers::default() };
        (self.in_engine, self.given_up) = (0, 0);
        self.link = Link::new();
        self.crypto.reset();
    }

    /// The function has been reset, and nothing is in flight any more.
    pub fn reset(&mut self) {
        self.disable();
        self.registers = Registers::default();
        self.query = Query::new();
        self.pci = ConfigSpace::new();
    }

    /// Reads registers.
    pub fn read(&self, region: u32, offset: u64, data: &mut [u8]) {
        if region == region::CONFIG {
            return self.pci.read(offset, data);
        }
        // Whatever the width: it is cut out of whole registers.
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

    /// Writes registers: one as a whole. Others are not written.
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

    fn register(&self, offset: u64) -> u32 {
        let registers = &self.registers;
        match offset {
            // 64-bit addresses, crypto.
            reg::CAP => (u32::from(self.depth) - 1) | (TASKS - 1) << 16 | 1 << 24 | 1 << 28,
            reg::VER => 0x310,
            reg::AHIT => registers.auto_hibernate,
            reg::IS => registers.interrupts,
            reg::IE => registers.interrupt_enable,
            reg::HCS => self.status(),
            reg::HCE => registers.enable,
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
            reg::UTRLDBR if registers.transfer_run && self.link.is_up() => {
                let existing = u32::MAX >> (32 - u32::from(self.depth));
                let new = value & existing & !registers.doorbell;
                registers.doorbell |= new;
                return Action::Transfers(new);
            }
            reg::UTRLCLR => return Action::Clear(!value & registers.doorbell),
            reg::UTRLRSR => registers.transfer_run = value & 1 != 0,
            reg::UTRLCNR => registers.notifications &= !value,
            reg::UTMRLBA => registers.task_list = with_lower(registers.task_list, value & !0x3ff),
            reg::UTMRLBAU => registers.task_list = with_upper(registers.task_list, value),
            reg::UTMRLDBR if registers.task_run && self.link.is_up() => {
                let new = value & ((1 << TASKS) - 1) & !registers.task_doorbell;
                registers.task_doorbell |= new;
                return Action::Tasks(new);
            }
            reg::UTMRLCLR => registers.task_doorbell &= value,
            reg::UTMRLRSR => registers.task_run = value & 1 != 0,
            reg::UICCMD => {
                registers.uic_command = value;
                let [attribute, _, argument] = registers.uic_arguments;
                let outcome = self.link.command(value, attribute, argument);
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

    /// Begins a transfer request. `None`: it is over.
    pub fn begin<'m>(&mut self, slot: u8, memory: &'m GuestMemoryMmap, worker: &'m Worker) -> Option<Job<'m>> {
        let context = Context {
            list: self.registers.transfer_list,
            depth: self.depth,
            crypto_enabled: self.registers.enable & enable::CRYPTO != 0,
            crypto: &self.crypto,
            lu: &self.lu,
            query: &mut self.query,
        };
        match transfer::begin(context, slot, memory, worker) {
            Ok(Some(job)) => {
                self.in_engine |= 1u32.checked_shl(slot.into()).unwrap_or(0);
                return Some(job);
            }
            Ok(None) => self.completed(slot),
            Err(BusError) => self.bus_error(),
        }
        None
    }

    /// The engine is done with a transfer request.
    pub fn finish(&mut self, reply: &Reply, memory: &GuestMemoryMmap, result: Result<(), Failure>) {
        let bit = 1u32.checked_shl(reply.slot.into()).unwrap_or(0);
        self.in_engine &= !bit;
        if self.given_up & bit != 0 {
            self.given_up &= !bit;
            self.registers.doorbell &= !bit;
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

    /// The driver resets the controller then.
    fn bus_error(&mut self) {
        self.registers.interrupts |= interrupt::SYSTEM_BUS_FATAL;
    }

    /// Gives transfer requests up. Their bits in the doorbell go when they do not use guest memory any more: at once if they
    /// could not be begun.
    pub fn give_up(&mut self, slots: u32) {
        self.given_up |= slots & self.registers.doorbell & self.in_engine;
        self.registers.doorbell &= !slots | self.in_engine;
    }

    /// Makes task management requests. Whether requests in flight are affected.
    pub fn manage(&mut self, tasks: u32, memory: &GuestMemoryMmap) -> bool {
        let mut affected = false;
        for number in (0..TASKS).filter(|number| tasks & 1 << number != 0) {
            match self.manage_one(number, memory) {
                Ok(aborts) => {
                    affected |= aborts;
                    self.registers.task_doorbell &= !(1 << number);
                    self.registers.interrupts |= interrupt::TASK_COMPLETION;
                }
                Err(BusError) => self.bus_error(),
            }
        }
        affected
    }

    fn manage_one(&self, number: u32, memory: &GuestMemoryMmap) -> Result<bool, BusError> {
        let at = u64::from(number) * size_of::<TaskDescriptor>() as u64;
        let at = GuestAddress(self.registers.task_list.checked_add(at).ok_or(BusError)?);
        let mut descriptor: TaskDescriptor = transfer::read(memory, at).ok_or(BusError)?;
        let request = descriptor.request;
        let in_flight = |tag: u32| self.registers.doorbell & 1u32.checked_shl(tag).unwrap_or(0) != 0;
        let (response, aborts) = match request.header.function {
            _ if request.header.lun != 0 => (task::INCORRECT_LUN, false),
            task::QUERY_TASK if in_flight(request.parameter2.get()) => (task::SUCCEEDED, false),
            task::QUERY_TASK_SET if self.registers.doorbell != 0 => (task::SUCCEEDED, false),
            task::QUERY_TASK | task::QUERY_TASK_SET => (task::COMPLETE, false),
            task::ABORT_TASK | task::ABORT_TASK_SET | task::CLEAR_TASK_SET | task::LOGICAL_UNIT_RESET => {
                (task::COMPLETE, true)
            }
            _ => (task::NOT_SUPPORTED, false),
        };
        let header = UpiuHeader {
            transaction: transaction::TASK_RESPONSE,
            lun: request.header.lun,
            tag: request.header.tag,
            ..UpiuHeader::default()
        };
        descriptor.response = TaskUpiu { header, parameter1: response.into(), ..TaskUpiu::default() };
        descriptor.ocs = Ocs::Success as u8;
        memory.write_slice(descriptor.as_bytes(), at).map_err(|_| BusError)?;
        Ok(aborts)
    }
}

/// The slot and the dword of a register of the array.
fn crypto_place(offset: u64) -> (u32, u64) {
    let place = offset.saturating_sub(reg::CRYPTOCFG);
    // The BAR ends before a u32 does.
    ((place / reg::CRYPTOCFG_BYTES) as u32, place % reg::CRYPTOCFG_BYTES / 4)
}

fn at(registers: &[u32], offset: u64) -> u32 {
    usize::try_from(offset / 4).ok().and_then(|place| registers.get(place)).copied().unwrap_or(0)
}

fn set_at(registers: &mut [u32], offset: u64, value: u32) {
    if let Some(register) = usize::try_from(offset / 4).ok().and_then(|place| registers.get_mut(place)) {
        *register = value;
    }
}

fn with_lower(address: u64, value: u32) -> u64 {
    address & !u64::from(u32::MAX) | u64::from(value)
}

fn with_upper(address: u64, value: u32) -> u64 {
    address & u64::from(u32::MAX) | u64::from(value) << 32
}
