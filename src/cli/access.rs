// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who may connect: `--socket-mode` and `--socket-group`.

use std::ffi::CString;

use vhost_user_blk_crypto::vhost::SocketAccess;

use super::Args;

/// Permission bits in octal.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("{text:?} is not a mode in octal from 0 to 777, such as 660")),
    }
}

/// Reads a group: its number, or its name in the system's database.
#[allow(unsafe_code, reason = "no safe interface asks all of the system's databases")]
pub fn parse_group(text: &str) -> Result<u32, String> {
    // `u32::MAX` means "no group".
    if let Some(number) = text.parse::<u32>().ok().filter(|&number| number != u32::MAX) {
        return Ok(number);
    }
    let unknown = || format!("there is no group {text:?}; `getent group` lists the groups");
    let name = CString::new(text).map_err(|_| unknown())?;
    // SAFETY: the name ends in 0. The result is used before the next call, and there is no other thread yet.
    let group = unsafe { libc::getgrnam(name.as_ptr()).as_ref() };
    group.map(|group| group.gr_gid).ok_or_else(unknown)
}

impl Args {
    /// Who may connect to `--socket-path`.
    pub fn socket_access(&self) -> SocketAccess {
        let private = SocketAccess::PRIVATE;
        let usual = if self.socket_group.is_some() { 0o660 } else { private.mode };
        SocketAccess { mode: self.socket_mode.unwrap_or(usual), group: self.socket_group }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_groups() {
        assert_eq!((parse_mode("660"), parse_mode("0777")), (Ok(0o660), Ok(0o777)));
        for bad in ["", "1000", "8", "u+w", "-1"] {
            assert!(parse_mode(bad).is_err(), "{bad:?}");
        }
        assert_eq!((parse_group("root"), parse_group("12345")), (Ok(0), Ok(12345)));
        for bad in ["", "no such group", "-1", "4294967295", "a\0b"] {
            assert!(parse_group(bad).is_err(), "{bad:?}");
        }
    }
}
