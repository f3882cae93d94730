// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where frontends come from: a path, or a socket that somebody else has made (QEMU's "Backend program conventions").

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A source of frontend connections.
#[derive(Debug)]
pub enum Listen {
    /// Frontends connect to a listening socket. A path that this program has made is removed in the end.
    Listening(UnixListener, Option<PathBuf>),
    /// One frontend is connected already.
    Connected(UnixStream),
}

impl Listen {
    /// Listens at `path`. A socket that nobody listens to any more is replaced.
    ///
    /// # Errors
    /// When something else than such a socket is there, or the socket cannot be made.
    pub fn at_path(path: &Path) -> Result<Self> {
        remove_stale_socket(path, "--socket-path")?;
        let listener = UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
        Ok(Self::Listening(listener, Some(path.to_owned())))
    }

    /// Takes an inherited socket, which listens or is connected; as systemd's socket activation hands it over, too.
    ///
    /// # Errors
    /// When the descriptor is not a Unix stream socket.
    pub fn inherited(fd: RawFd) -> Result<Self> {
        if fd <= 2 {
            bail!("--fd {fd} is a standard stream; give the number of an inherited socket");
        }
        // SAFETY: a number that is no open descriptor is refused here, before anything owns it.
        let open = rustix::io::fcntl_getfd(unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) });
        open.with_context(|| format!("--fd {fd} is not open"))?;
        // SAFETY: the descriptor is open, was inherited for this purpose, and nothing else in this program uses it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let listening =
            rustix::net::sockopt::socket_acceptconn(&fd).context("the descriptor given with --fd is not a socket")?;
        // Not for child processes.
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        if listening {
            Ok(Self::Listening(fd.into(), None))
        } else {
            let stream = UnixStream::from(fd);
            stream.set_nonblocking(false)?;
            stream.peer_addr().context("the socket given with --fd neither listens nor is connected")?;
            Ok(Self::Connected(stream))
        }
    }

    /// The number of the one socket that systemd passes by socket activation (sd_listen_fds(3)), if it does.
    ///
    /// # Errors
    /// When it passes more than one.
    pub fn activation_fd() -> Result<Option<RawFd>> {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
        if number("LISTEN_PID") != Some(std::process::id()) {
            return Ok(None);
        }
        match number("LISTEN_FDS") {
            None | Some(0) => Ok(None),
            Some(1) => Ok(Some(3)),
            Some(count) => bail!("systemd passes {count} sockets; give the unit exactly one ListenStream="),
        }
    }
}

/// Removes a socket that nobody listens to any more. `option` is the one that names the path.
///
/// # Errors
/// When something else than such a socket is there.
pub fn remove_stale_socket(path: &Path, option: &str) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} exists and is not a socket; name another {option}", path.display());
        }
        Ok(_) => {
            match UnixStream::connect(path) {
                Ok(_) => bail!("another program listens at {}; stop it or name another {option}", path.display()),
                // Only this says that nobody is there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
                    .with_context(|| format!("cannot replace the old socket {}", path.display())),
                Err(error) => Err(error)
                    .with_context(|| format!("{} is in use; remove it or name another {option}", path.display())),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
}

impl Drop for Listen {
    fn drop(&mut self) {
        if let Self::Listening(_, Some(path)) = self {
            // Somebody may have removed it before.
            let _ = std::fs::remove_file(path);
        }
    }
}
