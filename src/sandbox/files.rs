// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Landlock: which files can be opened, created and removed. Also no TCP, no abstract Unix sockets and no signals
//! outside.

use std::io;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, Compatible as _, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::{Access, FILTERED, Missing, Sandbox, SandboxError};
use crate::probe;

/// The Landlock version to ask for, of Linux 6.12. Older kernels restrict less.
const VERSION: ABI = ABI::V6;

/// What an older version does not restrict.
fn lost(version: ABI) -> &'static str {
    match version {
        ABI::Unsupported => "everything",
        ABI::V1 | ABI::V2 => "truncating files by path, TCP, ioctls of devices, signals and abstract sockets",
        ABI::V3 => "TCP, ioctls of devices, signals and abstract sockets",
        ABI::V4 => "ioctls of devices, signals and abstract sockets",
        _ => "signals and abstract sockets",
    }
}

fn rights(access: Access) -> BitFlags<AccessFs> {
    match access {
        Access::Read => AccessFs::ReadFile | AccessFs::ReadDir,
        Access::Write => AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg,
        Access::Remove => AccessFs::RemoveFile.into(),
    }
}

/// Puts the calling thread and its later threads under the rules, as far as the kernel can.
pub(super) fn restrict(sandbox: &Sandbox) -> Result<Option<Missing>, SandboxError> {
    if !can_be_made() {
        return Ok(Some(Missing(format!("Landlock: {FILTERED}"))));
    }
    let mut rules = Vec::new();
    for (path, access) in &sandbox.rules {
        let metadata = std::fs::metadata(path);
        let metadata = metadata.map_err(|error| SandboxError::Path { path: path.clone(), error })?;
        let mut rights = rights(*access);
        if !metadata.is_dir() {
            // Landlock refuses all other rights for files.
            rights &= AccessFs::from_file(VERSION);
        }
        let fd = PathFd::new(path)
            .map_err(|error| SandboxError::Path { path: path.clone(), error: io::Error::other(error) })?;
        rules.push(PathBeneath::new(fd, rights));
    }
    let status = build(rules).map_err(Box::new)?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced, _) => None,
        (_, LandlockStatus::NotImplemented) => Some("Landlock: the kernel does not have it (Linux 5.13 and newer do)"),
        (_, LandlockStatus::NotEnabled) => Some("Landlock: the kernel has it switched off (see its option lsm=)"),
        _ => None,
    }
    .map(str::to_owned)
    .or_else(|| match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if effective_abi < VERSION => Some(format!(
            "Landlock: the kernel has version {}, which does not restrict {} (Linux 6.12 restricts all)",
            effective_abi as i32,
            lost(effective_abi)
        )),
        _ => None,
    })
    .map(Missing))
}

/// Whether the Landlock calls are allowed. The kernel may still not support them.
fn can_be_made() -> bool {
    let answered = |result: libc::c_long| {
        let error = io::Error::last_os_error().raw_os_error();
        result >= 0 || !matches!(error, Some(libc::EPERM | libc::EACCES))
    };
    // SAFETY: the first only returns a number; the others get a descriptor that does not exist.
    probe::is_allowed(|| unsafe {
        answered(libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, ASK_FOR_VERSION))
            && answered(libc::syscall(libc::SYS_landlock_add_rule, -1, 0, std::ptr::null::<u8>(), 0))
            && answered(libc::syscall(libc::SYS_landlock_restrict_self, -1, 0))
    })
}

/// `LANDLOCK_CREATE_RULESET_VERSION` of <linux/landlock.h>.
const ASK_FOR_VERSION: libc::c_int = 1;

fn build(rules: Vec<PathBeneath<PathFd>>) -> Result<landlock::RestrictionStatus, landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(landlock::CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(VERSION))?
        .scope(Scope::from_all(VERSION))?
        .create()?
        .add_rules(rules.into_iter().map(Ok::<_, landlock::RulesetError>))?
        .restrict_self()
}
