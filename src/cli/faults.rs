// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Options for faults on cue.

use vhost_user_blk_crypto::faults::{Faults, KeepError, Spec};

/// The faults that there are from the start.
#[derive(Debug, clap::Args)]
pub struct FaultArgs {
    /// Let something go wrong on cue, for tests of drivers: KIND[=VALUE][,CONDITION=VALUE]..., such as
    /// io-error,op=write,sector=0-2047,nth=3,count=1 or dun-not-incremented. May be repeated; docs/faults.md has all
    #[arg(long = "fault", value_name = "SPEC")]
    pub faults: Vec<Spec>,
}

impl FaultArgs {
    /// Adds them, before there is a guest, and while there are the privileges to lock memory that they need.
    ///
    /// # Errors
    /// When that cannot be had.
    pub fn add_to(&self, faults: &Faults) -> Result<(), KeepError> {
        for spec in &self.faults {
            faults.insert(spec.clone())?;
        }
        if !self.faults.is_empty() {
            log::warn!("this device has faults (--fault): do not use it for data that matters");
        }
        Ok(())
    }
}
