// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sources of frontend connections: a path, or an inherited socket (QEMU's "Backend program conventions").

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, Gid, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt};

use crate::own_path::OwnPath;

/// The maximum number of connections that wait to be accepted. More than one waits only while the device is busy.
const BACKLOG: i32 = 128;

/// A source of frontend connections.
#[derive(Debug)]
pub enum Listen {
    /// Frontends connect to a listening socket. At the end, a path that this program created is removed.
    Listening(UnixListener, Option<OwnPath>),
    /// One frontend is connected already.
    Connected(UnixStream),
}

impl Listen {
    /// Listens at `path`. Replaces a stale socket.
    ///
    /// # Errors
    /// When the path exists and is not a stale socket, or the socket cannot be created.
    pub fn at_path(path: &Path, access: SocketAccess) -> Result<Self> {
        let (listener, path) = bind_socket(path, "--socket-path", access)?;
        Ok(Self::Listening(listener, Some(path)))
    }

    /// Takes an inherited socket, listening or connected, also one from systemd's socket activation. Call it before the
    /// program opens anything: the number may belong to nobody yet.
    ///
    /// # Errors
    /// When the descriptor is not a Unix stream socket.
    pub fn inherited(fd: RawFd) -> Result<Self> {
        if fd <= 2 {
            bail!("--fd {fd} is a standard stream; give the number of an inherited socket");
        }
        // SAFETY: the call refuses a number that is not an open descriptor, before anything owns it.
        let open = rustix::io::fcntl_getfd(unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) });
        open.with_context(|| format!("--fd {fd} is not open"))?;
        // SAFETY: the descriptor is open, was inherited for this purpose, and nothing else in this program uses it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let listening = sockopt::socket_acceptconn(&fd).context("the descriptor given with --fd is not a socket")?;
        let kind = (sockopt::socket_domain(&fd)?, sockopt::socket_type(&fd)?);
        if kind != (AddressFamily::UNIX, SocketType::STREAM) {
            bail!("the descriptor given with --fd is another kind of socket; it must be a Unix stream socket");
        }
        // Child processes must not inherit it.
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

    /// The descriptor of the one socket that systemd passes by socket activation (sd_listen_fds(3)), if it passes one.
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

/// Who may connect to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketAccess {
    /// Permission bits.
    pub mode: u32,
    /// Number of the group that gets the socket; `None`: ours.
    pub group: Option<u32>,
}

impl SocketAccess {
    /// This user only.
    pub const PRIVATE: Self = Self { mode: 0o600, group: None };
}

/// Listens at a path; `option` is the option that names it. Nobody can connect before mode and group are set.
///
/// # Errors
/// When the path exists and is not a stale socket, or the socket cannot be created.
pub fn bind_socket(path: &Path, option: &str, access: SocketAccess) -> Result<(UnixListener, OwnPath)> {
    remove_stale_socket(path, option)?;
    let socket = named_socket(path, access.mode).with_context(|| format!("cannot listen at {}", path.display()))?;
    let own = OwnPath::find(path).with_context(|| format!("cannot get the status of {}", path.display()))?;
    if let Some(group) = access.group {
        give_to_group(path, &own, group).with_context(|| {
            format!("cannot give {} to group {group}; become a member of that first", path.display())
        })?;
    }
    rustix::net::listen(&socket, BACKLOG).with_context(|| format!("cannot listen at {}", path.display()))?;
    Ok((socket.into(), own))
}

/// A socket that does not listen yet. Its mode is set before its path exists.
fn named_socket(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::fchmod(&socket, mode)?;
    // The umask would clear bits.
    let umask = rustix::process::umask(Mode::RWXU | Mode::RWXG | Mode::RWXO);
    rustix::process::umask(umask - mode);
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(umask);
    Ok(bound.map(|()| socket)?)
}

/// Uses a descriptor: whoever may write to the directory could put another file at the path.
fn give_to_group(path: &Path, own: &OwnPath, group: u32) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let file = File::from(file);
    if !own.is(&file.metadata()?) {
        return Err(io::Error::other("another program has replaced the socket"));
    }
    rustix::fs::chownat(&file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    Ok(())
}

/// Removes a stale socket: one on which nobody listens.
fn remove_stale_socket(path: &Path, option: &str) -> Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} exists and is not a socket; name another {option}", path.display());
        }
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot get the status of {}", path.display())),
    };
    let stale = is_stale(path);
    if !stale.with_context(|| format!("{} is in use; remove it or name another {option}", path.display()))? {
        bail!("another program listens at {}; stop it or name another {option}", path.display());
    }
    match OwnPath::of(path, &found).remove() {
        Ok(true) => Ok(()),
        Ok(false) => bail!("another program has just replaced {}; name another {option}", path.display()),
        Err(error) => Err(error).with_context(|| format!("cannot replace the old socket {}", path.display())),
    }
}

/// Whether nobody listens on a socket.
fn is_stale(path: &Path) -> io::Result<bool> {
    let look = || match UnixStream::connect(path) {
        Ok(_) => Ok(false),
        // Only this error means that nobody listens.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error),
    };
    if !look()? {
        return Ok(false);
    }
    // A program may have created it just now, and not listen yet.
    std::thread::sleep(Duration::from_millis(100));
    look()
}

impl Drop for Listen {
    fn drop(&mut self) {
        if let Self::Listening(_, path) = self {
            // The inode is not reused while the socket is open.
            drop(path.take());
        }
    }
}
