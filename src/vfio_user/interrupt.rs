// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The interrupt line, as VFIO defines it: when it rises, it signals an eventfd and masks itself. If it is still up when the client
//! unmasks it, it signals again.
//!
//! QEMU unmasks the line at any access to a register. The first access of a driver's interrupt handler reads why the line is up, and
//! the next ones lower it. The line is held in between: a signal there would interrupt the guest for nothing. But a handler may look
//! for the last time, and leave the line up (Linux gives up after some rounds). So the line is not held for long.
#![forbid(unsafe_code)]

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::protocol::{IrqSet, irq};
use crate::queue::Event;

/// How long the line is held at most. A handler at work takes less, unless its CPU has other things to do.
const LONGEST_HOLD: Duration = Duration::from_millis(200);

/// The interrupt line.
#[derive(Debug, Default)]
pub struct Line {
    event: Option<Arc<Event>>,
    up: bool,
    masked: bool,
    /// Held since then.
    held: Option<Instant>,
}

impl Line {
    /// Raises or lowers the line.
    pub fn set(&mut self, up: bool) {
        self.up = up;
        // The next rise is a new event.
        self.held = self.held.filter(|_| up);
        self.signal();
    }

    /// The driver has read why the line is up. No signal from now on, until the line is down, [`release`](Self::release) is called, or
    /// [`set`](Self::set) is called after [`LONGEST_HOLD`].
    pub fn hold(&mut self) {
        self.held = self.up.then(Instant::now);
    }

    /// Whether only the hold keeps the line from a signal: then [`set`](Self::set) must be called again, though nothing else happens.
    pub fn is_held(&self) -> bool {
        self.held.is_some() && !self.masked
    }

    /// The driver has accessed another register.
    pub fn release(&mut self) {
        self.held = None;
    }

    fn signal(&mut self) {
        if self.up
            && !self.masked
            && self.held.is_none_or(|since| since.elapsed() >= LONGEST_HOLD)
            && let Some(event) = &self.event
        {
            (self.masked, self.held) = (true, None);
            event.signal();
        }
    }

    /// SET_IRQS. `data` follows the structure.
    ///
    /// # Errors
    /// EINVAL for interrupts that do not exist, ENOTSUP for actions that are not offered.
    pub fn configure(&mut self, set: &IrqSet, data: &[u8], files: Vec<File>) -> Result<(), Errno> {
        let (index, start, count) = (set.index.get(), set.start.get(), set.count.get());
        if index >= irq::COUNT {
            return Err(Errno::INVAL);
        }
        if count == 0 && set.flags.get() == irq::DATA_NONE | irq::ACTION_TRIGGER {
            if index == irq::INTX {
                *self = Self { up: self.up, held: self.held, ..Self::default() };
            }
            return Ok(());
        }
        if index != irq::INTX || start != 0 || count != 1 {
            return Err(Errno::INVAL);
        }
        let data_type = set.flags.get() & (irq::DATA_NONE | irq::DATA_BOOL | irq::DATA_EVENTFD);
        let action = set.flags.get() & (irq::ACTION_MASK | irq::ACTION_UNMASK | irq::ACTION_TRIGGER);
        let meant = match data_type {
            irq::DATA_NONE => true,
            irq::DATA_BOOL => data.first().is_some_and(|&byte| byte != 0),
            irq::DATA_EVENTFD if action == irq::ACTION_TRIGGER => {
                let file = files.into_iter().next();
                self.event = file.map(Event::new).transpose().map_err(|_| Errno::INVAL)?;
                self.masked = false;
                self.signal();
                return Ok(());
            }
            irq::DATA_EVENTFD => return Err(Errno::NOTSUP),
            _ => return Err(Errno::INVAL),
        };
        match action {
            _ if !meant => {}
            irq::ACTION_MASK => self.masked = true,
            irq::ACTION_UNMASK => {
                self.masked = false;
                self.signal();
            }
            // The client tests its eventfd.
            irq::ACTION_TRIGGER => {
                if let Some(event) = &self.event {
                    event.signal();
                }
            }
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }
}
