// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The sockets of the program: its own, inherited ones, another program's, and the service manager's.

mod common;

use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::process::*;

#[test]
fn frontends_one_after_the_other() {
    let files = Files::new();
    let mut running = Running::start(&files, &[]);
    for _ in 0..3 {
        drop(talk(UnixStream::connect(files.path("socket")).expect("connect")));
    }
    assert!(!running.exited());
    running.signal(libc::SIGTERM);
    assert_eq!(running.finish().0, Some(0));

    let running = Running::start(&files, &["--exit-on-disconnect"]);
    drop(talk(UnixStream::connect(files.path("socket")).expect("connect")));
    assert_eq!(running.finish().0, Some(0));
}

/// If descriptors run out while there is no frontend, the device serves the next one when there are some again.
#[test]
fn descriptors_run_out_between_frontends() {
    for options in [&[][..], &["--ufs"]] {
        let files = Files::new();
        let mut running = Running::start(&files, options);
        let serve = |stream| {
            if options.is_empty() {
                drop(talk(stream));
            } else {
                drop(common::vfio::Vfio::new(stream));
            }
        };
        serve(files.connect());
        // It sees the end of that connection, and waits for the next one.
        std::thread::sleep(Duration::from_millis(300));
        let process = Some(rustix::process::Pid::from_child(&running.0));
        let limit = |current, maximum| {
            let limit = rustix::process::Rlimit { current, maximum };
            rustix::process::prlimit(process, rustix::process::Resource::Nofile, limit).expect("prlimit")
        };
        let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let before = limit(Some(5), maximum);
        let waiting = files.connect();
        let mut log = BufReader::new(running.0.stderr.take().expect("standard error"));
        let mut text = String::new();
        while !text.contains("and tries again: Too many open files") {
            assert!(log.read_line(&mut text).expect("standard error") > 0, "{text}");
        }
        limit(before.current, before.maximum);
        serve(waiting);
        assert_eq!(running.terminate().0, Some(0));
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let files = Files::new();
    let mut running = Running::start(&files, &[]);
    let other = Files::new();
    let (code, text) =
        output(program().arg("--socket-path").arg(files.path("socket")).arg("--blk-file").arg(other.image()));
    assert!(code != Some(0) && text.contains("another program listens"), "{text}");
    running.0.kill().expect("kill");
    running.0.wait().expect("wait");
    assert!(files.path("socket").exists(), "killed: the socket stays behind");
    let mut running = Running::start(&files, &[]);
    wait_for(|| running.exited() || UnixStream::connect(files.path("socket")).is_ok());
    assert!(!running.exited());
}

/// Hands a socket over as descriptor 3, as systemd and libvirt do.
fn inherit(command: &mut Command, socket: OwnedFd) {
    let raw = socket.as_raw_fd();
    // SAFETY: dup2 is async-signal-safe, and the descriptor lives until the child has been made. Descriptor 3 of the
    // child belongs to nobody else: the standard library closes what it opened when it executes the program.
    unsafe {
        command.pre_exec(move || {
            let _keep = &socket;
            if libc::dup2(raw, 3) == 3 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}

/// A descriptor above 3, so that `dup2` onto 3 clears close-on-exec.
fn above_three(fd: OwnedFd) -> OwnedFd {
    // SAFETY: F_DUPFD_CLOEXEC makes a new descriptor that is ours.
    unsafe { OwnedFd::from_raw_fd(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 20)) }
}

#[test]
fn an_inherited_socket_that_is_connected() {
    let files = Files::new();
    let (ours, theirs) = UnixStream::pair().expect("socket pair");
    let mut command = program();
    command.args(["--fd", "3", "--blk-file"]).arg(files.image()).stderr(Stdio::piped());
    inherit(&mut command, above_three(theirs.into()));
    let running = Running(command.spawn().expect("program"));
    drop(command);
    drop(talk(ours));
    // No other frontend can connect.
    let (code, text) = running.finish();
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn an_inherited_socket_that_listens() {
    for activation in [false, true] {
        let files = Files::new();
        let listener = UnixListener::bind(files.path("socket")).expect("listen");
        let mut command = if activation {
            // systemd sets LISTEN_PID to the process that it executes. A shell that executes the program does the same.
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\""]);
            command.arg(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
            command
        } else {
            let mut command = program();
            command.args(["--fd", "3"]);
            command
        };
        command.arg("--blk-file").arg(files.image()).stderr(Stdio::piped());
        inherit(&mut command, above_three(listener.into()));
        let running = Running(command.spawn().expect("program"));
        for _ in 0..2 {
            drop(talk(UnixStream::connect(files.path("socket")).expect("connect")));
        }
        running.signal(libc::SIGTERM);
        let (code, text) = running.finish();
        assert_eq!(code, Some(0), "{text}");
        assert!(files.path("socket").exists(), "another program's socket is not removed");
    }
}

/// The program does not take a descriptor of its own for the one that nobody has passed.
#[test]
fn a_socket_that_is_not_there() {
    let files = Files::new();
    for activation in ["", "LISTEN_PID=$$ LISTEN_FDS=1 "] {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{activation}exec \"$0\" \"$@\" 3>&- 4>&-")]).arg(program().get_program());
        command.arg("--blk-file").arg(files.image()).stderr(Stdio::piped());
        if activation.is_empty() {
            command.args(["--fd", "3"]);
        }
        let (code, text) = Running(command.spawn().expect("program")).finish();
        assert!(code == Some(1) && text.contains("--fd 3 is not open"), "{text}");
    }
}

/// If another program has replaced a socket, the device does not remove it, neither at the end nor at the start.
#[test]
fn a_socket_of_somebody_else_is_left_alone() {
    let files = Files::new();
    let control = files.path("control");
    let running = Running::start(&files, &["--control", control.to_str().expect("path")]);
    let theirs = [files.path("socket"), control].map(|path| {
        std::fs::remove_file(&path).expect("ours");
        let theirs = UnixListener::bind(&path).expect("theirs");
        (path, theirs)
    });
    let (code, text) = running.terminate();
    assert_eq!((code, text.matches("is not removed: another program has replaced it").count()), (Some(0), 2), "{text}");
    for (path, _theirs) in &theirs {
        UnixStream::connect(path).expect("still there");
        // A device that starts does not remove it either.
        let image = Files::new();
        let (code, text) = output(program().arg("--socket-path").arg(path).arg("--blk-file").arg(image.image()));
        assert!(code == Some(1) && text.contains("another program listens"), "{text}");
    }
    // A socket that was just created and does not listen yet looks like a stale one.
    let path = files.path("slow");
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None);
    let socket = socket.expect("socket");
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).expect("address")).expect("named");
    let image = Files::new();
    let start = || output(program().arg("--socket-path").arg(&path).arg("--blk-file").arg(image.image()));
    std::thread::scope(|scope| {
        let started = scope.spawn(start);
        // Whichever is slower, the program's start or this test.
        std::thread::sleep(Duration::from_millis(30));
        rustix::net::listen(&socket, 1).expect("listens");
        let (code, text) = started.join().expect("no panic");
        assert!(code == Some(1) && text.contains("another program listens"), "{text}");
    });
    UnixStream::connect(&path).expect("still there");
}

#[test]
fn sockets_that_cannot_be_served_are_refused() {
    let files = Files::new();
    let with = |socket: OwnedFd| {
        let mut command = program();
        command.args(["--fd", "3", "--blk-file"]).arg(files.image());
        inherit(&mut command, above_three(socket));
        output(&mut command)
    };
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("TCP");
    let datagrams = std::os::unix::net::UnixDatagram::pair().expect("datagrams").0;
    let packets = rustix::net::SocketFlags::CLOEXEC;
    let packets =
        rustix::net::socketpair(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, packets, None);
    for socket in [tcp.into(), datagrams.into(), packets.expect("packets").0] {
        let (code, text) = with(socket);
        assert!(code == Some(1) && text.contains("must be a Unix stream socket"), "{text}");
    }
}

#[test]
fn who_may_connect() {
    use std::os::unix::fs::MetadataExt;
    let ours = rustix::process::getegid().as_raw();
    // Root may give it to any group.
    let (group, is_root) = if rustix::process::geteuid().is_root() { (54321, true) } else { (ours, false) };
    let number = group.to_string();
    for (options, mode, wanted) in [
        (&[][..], 0o600, ours),
        (&["--socket-mode", "666"], 0o666, ours),
        (&["--socket-group", &number], 0o660, group),
        (&["--socket-group", &number, "--socket-mode", "0620"], 0o620, group),
    ] {
        let files = Files::new();
        let running = Running::start(&files, options);
        let socket = std::fs::symlink_metadata(files.path("socket")).expect("socket");
        assert_eq!((socket.mode() & 0o7777, socket.gid()), (mode, wanted), "{options:?}");
        drop(talk(files.connect()));
        let (code, text) = running.terminate();
        assert_eq!(code, Some(0), "{text}");
        assert!(!files.path("socket").exists());
    }
    if !is_root {
        let files = Files::new();
        let (code, text) = Running::start(&files, &["--socket-group", "0"]).finish();
        assert!(code == Some(1) && text.contains("become a member"), "{text}");
        assert!(!files.path("socket").exists());
    }
}

/// `Type=notify`, by a path and by an abstract name.
#[test]
fn the_service_manager_is_told() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    for is_abstract in [false, true] {
        let files = Files::new();
        let path = files.path("notify");
        let name = path.to_str().expect("path");
        let (manager, variable) = if is_abstract {
            let address = SocketAddr::from_abstract_name(name).expect("address");
            (UnixDatagram::bind_addr(&address).expect("socket"), format!("@{name}"))
        } else {
            (UnixDatagram::bind(&path).expect("socket"), name.to_owned())
        };
        manager.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let message = || {
            let mut bytes = [0; 100];
            let len = manager.recv(&mut bytes).expect("a message");
            String::from_utf8_lossy(&bytes[..len]).into_owned()
        };
        let mut command = program();
        command.env("NOTIFY_SOCKET", variable).stderr(Stdio::piped());
        command.arg("--socket-path").arg(files.path("socket")).arg("--blk-file").arg(files.image());
        let running = Running(command.spawn().expect("program"));
        assert_eq!(message(), "READY=1\n");
        drop(talk(files.connect()));
        running.signal(libc::SIGTERM);
        assert_eq!(message(), "STOPPING=1\n");
        let (code, text) = running.finish();
        assert!(code == Some(0) && !text.contains("service manager"), "{text}");
    }
}
