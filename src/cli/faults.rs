// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Options for fault injection.

use vhost_user_blk_crypto::faults::{AddError, Faults, Spec};

/// Faults that exist from the start.
#[derive(Debug, clap::Args)]
pub struct FaultArgs {
    /// Inject a fault, to test drivers: KIND[=VALUE][,CONDITION=VALUE]..., such as
    /// io-error,op=write,sector=0-2047,nth=3,count=1 or dun-not-incremented. May be repeated; docs/faults.md lists
    /// kinds and conditions
    #[arg(long = "fault", value_name = "SPEC")]
    pub faults: Vec<Spec>,
}

impl FaultArgs {
    /// Adds the faults before a guest starts, while the process may still lock the memory that they need.
    ///
    /// # Errors
    /// When that memory cannot be locked, or the device cannot have such a fault.
    pub fn add_to(&self, faults: &Faults) -> Result<(), AddError> {
        for spec in &self.faults {
            faults.insert(spec.clone())?;
        }
        if !self.faults.is_empty() {
            log::warn!("this device has faults (--fault): do not use it for data that matters");
        }
        Ok(())
    }
}
