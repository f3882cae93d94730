// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The registers that hold a value, and helpers for their offsets.
#![forbid(unsafe_code)]

use super::protocol::register as reg;

/// Registers that hold a value.
#[derive(Debug, Default)]
pub(super) struct Registers {
    pub(super) enable: u32,
    pub(super) interrupts: u32,
    pub(super) interrupt_enable: u32,
    pub(super) power_status: u32,
    pub(super) auto_hibernate: u32,
    pub(super) aggregation: u32,
    pub(super) transfer_list: u64,
    pub(super) transfer_run: bool,
    pub(super) doorbell: u32,
    pub(super) notifications: u32,
    pub(super) task_list: u64,
    pub(super) task_run: bool,
    pub(super) task_doorbell: u32,
    pub(super) uic_arguments: [u32; 3],
    pub(super) uic_command: u32,
    /// UECPA, UECDL, UECN, UECT, UECDME: errors of the link's layers.
    pub(super) uic_errors: [u32; 5],
    pub(super) latency: [u32; 2],
}

/// The slot and the dword of a register of the array.
pub(super) fn crypto_place(offset: u64) -> (u32, u64) {
    let place = offset.saturating_sub(reg::CRYPTOCFG);
    // The BAR ends before a u32 does.
    ((place / reg::CRYPTOCFG_BYTES) as u32, place % reg::CRYPTOCFG_BYTES / 4)
}

pub(super) fn at(registers: &[u32], offset: u64) -> u32 {
    usize::try_from(offset / 4).ok().and_then(|place| registers.get(place)).copied().unwrap_or(0)
}

pub(super) fn set_at(registers: &mut [u32], offset: u64, value: u32) {
    if let Some(register) = usize::try_from(offset / 4).ok().and_then(|place| registers.get_mut(place)) {
        *register = value;
    }
}

pub(super) fn with_lower(address: u64, value: u32) -> u64 {
    address & !u64::from(u32::MAX) | u64::from(value)
}

pub(super) fn with_upper(address: u64, value: u32) -> u64 {
    address & u64::from(u32::MAX) | u64::from(value) << 32
}
