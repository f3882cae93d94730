// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The interrupt line, as VFIO has it: it signals an eventfd when it rises, and masks itself until the client unmasks it. If it is
//! still up then, it signals again.
//!
//! QEMU takes any access to a register as the end of the interrupt, and unmasks the line. The first access of a driver's handler
//! is one that reads why the line is up, and the next ones let it go. So the line is held between them: a signal there would
//! interrupt the guest for nothing.
#![forbid(unsafe_code)]

use std::fs::File;
use std::sync::Arc;

use rustix::io::Errno;

use super::protocol::{IrqSet, irq};
use crate::queue::Event;

/// The interrupt line.
#[derive(Debug, Default)]
pub struct Line {
    event: Option<Arc<Event>>,
    up: bool,
    masked: bool,
    held: bool,
}

impl Line {
    /// The device pulls the line up or lets it go.
    pub fn set(&mut self, up: bool) {
        self.up = up;
        // When it rises again, there is something new to tell.
        self.held &= up;
        self.signal();
    }

    /// The driver has read why the line is up: no signal until the line has been down, or the driver does something else.
    pub fn hold(&mut self) {
        self.held = self.up;
    }

    /// The driver does something else.
    pub fn release(&mut self) {
        self.held = false;
    }

    fn signal(&mut self) {
        if self.up
            && !self.masked
            && !self.held
            && let Some(event) = &self.event
        {
            self.masked = true;
            event.signal();
        }
    }

    /// SET_IRQS. `data` follows the structure.
    ///
    /// # Errors
    /// EINVAL for what there is not, ENOTSUP for what is not offered.
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
            // The client wants to see whether its eventfd works.
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
