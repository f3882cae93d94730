// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Transfer requests that end without an answer: because the driver clears or aborts them, or because the controller fails.
#![forbid(unsafe_code)]

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use super::controller::{Controller, TASKS};
use super::protocol::{Ocs, TaskDescriptor, TaskUpiu, UpiuHeader, interrupt, task, transaction, uic_error};
use super::transfer::{self, BusError};
use crate::faults::ControllerFault;

impl Controller {
    /// The driver resets the controller: clears all transfer requests.
    pub fn give_all_up(&mut self) {
        self.given_up = self.registers.doorbell & self.in_engine;
    }

    /// The driver clears transfer requests. A request that the engine executes keeps its bit in the doorbell until it uses guest
    /// memory no longer. The other bits are cleared at once.
    pub fn give_up(&mut self, slots: u32) {
        self.given_up |= slots & self.registers.doorbell & self.in_engine;
        self.registers.doorbell &= !slots | self.in_engine;
    }

    /// The transfer requests in the engine that will not be answered.
    pub fn unwanted(&self) -> u32 {
        (self.given_up | self.aborted) & self.in_engine
    }

    /// Whether to answer a transfer request that the engine has executed. If not, its bit in the doorbell is cleared if the driver has
    /// asked for that before. Otherwise it stays until the driver does.
    pub(super) fn is_wanted(&mut self, bit: u32) -> bool {
        let given_up = self.given_up & bit != 0;
        let wanted = !given_up && self.aborted & bit == 0 && !self.has_failed;
        self.given_up &= !bit;
        self.aborted &= !bit;
        if given_up {
            self.registers.doorbell &= !bit;
        }
        wanted
    }

    /// An injected fault strikes a request. Returns whether it stops the controller, which then answers no request until it is reset.
    pub(super) fn fail(&mut self, fault: ControllerFault) -> bool {
        self.registers.interrupts |= match fault {
            ControllerFault::LinkLost => {
                self.link.lose();
                interrupt::LINK_LOST
            }
            ControllerFault::LinkError => {
                let [adapter, data_link, ..] = &mut self.registers.uic_errors;
                *adapter |= uic_error::ERROR | uic_error::LINE_RESET;
                *data_link |= uic_error::ERROR | uic_error::PA_INIT;
                interrupt::UIC_ERROR
            }
            ControllerFault::CryptoFatalError => interrupt::CRYPTO_ENGINE_FATAL,
            _ => return false,
        };
        self.has_failed = true;
        true
    }

    /// Executes task management requests.
    pub fn manage(&mut self, tasks: u32, memory: &GuestMemoryMmap) {
        for number in (0..TASKS).filter(|number| tasks & 1 << number != 0) {
            match self.manage_one(number, memory) {
                Ok(()) => {
                    self.registers.task_doorbell &= !(1 << number);
                    self.registers.interrupts |= interrupt::TASK_COMPLETION;
                }
                Err(BusError) => self.bus_error(),
            }
        }
    }

    fn manage_one(&mut self, number: u32, memory: &GuestMemoryMmap) -> Result<(), BusError> {
        let at = u64::from(number) * size_of::<TaskDescriptor>() as u64;
        let at = GuestAddress(self.registers.task_list.checked_add(at).ok_or(BusError)?);
        let mut descriptor: TaskDescriptor = transfer::read(memory, at).ok_or(BusError)?;
        let request = descriptor.request;
        let unit = request.header.lun;
        let on_unit = self.in_flight(unit);
        let one = on_unit & 1u32.checked_shl(request.parameter2.get()).unwrap_or(0);
        let pending = |requests: u32| if requests == 0 { task::COMPLETE } else { task::SUCCEEDED };
        let (response, aborted) = match request.header.function {
            _ if !self.units.has(unit) => (task::INCORRECT_LUN, 0),
            task::QUERY_TASK => (pending(one), 0),
            task::QUERY_TASK_SET => (pending(on_unit), 0),
            task::ABORT_TASK => (task::COMPLETE, one),
            task::ABORT_TASK_SET | task::CLEAR_TASK_SET | task::LOGICAL_UNIT_RESET => (task::COMPLETE, on_unit),
            _ => (task::NOT_SUPPORTED, 0),
        };
        self.aborted |= aborted;
        let header = UpiuHeader {
            transaction: transaction::TASK_RESPONSE,
            lun: unit,
            tag: request.header.tag,
            ..UpiuHeader::default()
        };
        descriptor.response = TaskUpiu { header, parameter1: response.into(), ..TaskUpiu::default() };
        descriptor.ocs = Ocs::Success as u8;
        memory.write_slice(descriptor.as_bytes(), at).map_err(|_| BusError)
    }

    /// The transfer requests for a unit that the engine executes and nobody has aborted.
    fn in_flight(&self, unit: u8) -> u32 {
        let of_unit = (0..).zip(&self.luns).filter(|(_, lun)| **lun == unit);
        let of_unit = of_unit.fold(0, |bits, (slot, _)| bits | 1u32.checked_shl(slot).unwrap_or(0));
        of_unit & self.in_engine & !self.aborted
    }
}
