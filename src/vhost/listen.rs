// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where frontends come from: a path, or a socket that somebody else has made (QEMU's "Backend program conventions").

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

/// Connections that wait to be accepted. More than one only as long as the device is busy.
const BACKLOG: i32 = 128;

/// A source of frontend connections.
#[derive(Debug)]
pub enum Listen {
    /// Frontends connect to a listening socket. A path that this program has made is removed in the end.
    Listening(UnixListener, Option<OwnPath>),
    /// One frontend is connected already.
    Connected(UnixStream),
}

impl Listen {
    /// Listens at `path`. A socket that nobody listens to any more is replaced.
    ///
    /// # Errors
    /// When something else than such a socket is there, or the socket cannot be made.
    pub fn at_path(path: &Path, access: SocketAccess) -> Result<Self> {
        let (listener, path) = bind_socket(path, "--socket-path", access)?;
        Ok(Self::Listening(listener, Some(path)))
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
        let listening = sockopt::socket_acceptconn(&fd).context("the descriptor given with --fd is not a socket")?;
        let kind = (sockopt::socket_domain(&fd)?, sockopt::socket_type(&fd)?);
        if kind != (AddressFamily::UNIX, SocketType::STREAM) {
            bail!("the descriptor given with --fd is another kind of socket; it must be a Unix stream socket");
        }
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

/// Who may connect to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketAccess {
    /// Permission bits.
    pub mode: u32,
    /// Number of the group that it is given to, if it is another one than ours.
    pub group: Option<u32>,
}

impl SocketAccess {
    /// This user only.
    pub const PRIVATE: Self = Self { mode: 0o600, group: None };
}

/// Listens at a path of ours; `option` is the one that names it. Nobody can connect before mode and group are right.
///
/// # Errors
/// When something else than a socket that nobody listens to is there, or the socket cannot be made.
pub fn bind_socket(path: &Path, option: &str, access: SocketAccess) -> Result<(UnixListener, OwnPath)> {
    remove_stale_socket(path, option)?;
    let socket = named_socket(path, access.mode).with_context(|| format!("cannot listen at {}", path.display()))?;
    let own = OwnPath::find(path).with_context(|| format!("cannot look at {}", path.display()))?;
    if let Some(group) = access.group {
        give_to_group(path, &own, group).with_context(|| {
            format!("cannot give {} to group {group}; become a member of that first", path.display())
        })?;
    }
    rustix::net::listen(&socket, BACKLOG).with_context(|| format!("cannot listen at {}", path.display()))?;
    Ok((socket.into(), own))
}

/// A socket that does not listen yet. It has its mode before it has its name.
fn named_socket(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::fchmod(&socket, mode)?;
    // The bits of the umask would be taken away.
    let umask = rustix::process::umask(Mode::RWXU | Mode::RWXG | Mode::RWXO);
    rustix::process::umask(umask - mode);
    let bound = rustix::net::bind(&socket, &address);
    rustix::process::umask(umask);
    Ok(bound.map(|()| socket)?)
}

/// By a descriptor: whoever may write in the directory could put another file at the path.
fn give_to_group(path: &Path, own: &OwnPath, group: u32) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let file = File::from(file);
    if !own.is(&file.metadata()?) {
        return Err(io::Error::other("somebody else has put another file there"));
    }
    rustix::fs::chownat(&file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    Ok(())
}

/// Removes a socket that nobody listens to any more.
fn remove_stale_socket(path: &Path, option: &str) -> Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} exists and is not a socket; name another {option}", path.display());
        }
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    let stale = is_stale(path);
    if !stale.with_context(|| format!("{} is in use; remove it or name another {option}", path.display()))? {
        bail!("another program listens at {}; stop it or name another {option}", path.display());
    }
    match OwnPath::of(path, &found).remove() {
        Ok(true) => Ok(()),
        Ok(false) => bail!("another program has just come to {}; name another {option}", path.display()),
        Err(error) => Err(error).with_context(|| format!("cannot replace the old socket {}", path.display())),
    }
}

/// Whether nobody listens at a socket.
fn is_stale(path: &Path) -> io::Result<bool> {
    let look = || match UnixStream::connect(path) {
        Ok(_) => Ok(false),
        // Only this says that nobody is there.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error),
    };
    if !look()? {
        return Ok(false);
    }
    // Somebody may have named it just now, and not listen yet.
    std::thread::sleep(Duration::from_millis(100));
    look()
}

impl Drop for Listen {
    fn drop(&mut self) {
        if let Self::Listening(_, path) = self {
            // While the socket is open its inode has no other use.
            drop(path.take());
        }
    }
}
