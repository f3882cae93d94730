// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Frontends that misbehave: they do not read, they fall silent, there are too many. eventfds.rs tests their eventfds.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use common::process::{Files, Running, talk};
use common::*;
use vhost::VhostBackend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// A message, or its beginning: request, flags, size, body.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// While the device serves a frontend, it closes other connections at once. The frontend does not notice.
#[test]
fn a_second_frontend_is_hung_up_on() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let frontend = talk(files.connect());
    for _ in 0..50 {
        let mut second = files.connect();
        second.set_read_timeout(Some(ring::PATIENCE)).expect("timeout");
        assert_eq!(second.read(&mut [0]).expect("the end"), 0, "closed without a message");
        frontend.get_features().expect("GET_FEATURES");
    }
    drop(frontend);
    drop(talk(files.connect()));
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
    let lines = text.matches("another frontend has connected").count();
    assert!((1..=12).contains(&lines), "{lines} lines: {text}");
}

/// A frontend that disconnects and connects again at once is not refused, although the device may see both at the same
/// time.
#[test]
fn a_frontend_that_comes_back_at_once() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let mut frontend = talk(files.connect());
    for _ in 0..100 {
        // The last message has no reply: the device may still be serving it.
        frontend.set_owner().expect("SET_OWNER");
        drop(frontend);
        frontend = talk(files.connect());
    }
    drop(frontend);
    let (code, text) = running.terminate();
    assert!(code == Some(0) && !text.contains("another frontend"), "{text}");
    // Whoever connects without end does not fill the log.
    for line in ["a frontend has connected", "the frontend has gone"] {
        let lines = text.matches(line).count();
        assert!((1..=12).contains(&lines), "{lines} lines: {text}");
    }
}

/// Connections that send nothing, or no complete message, do not keep others out.
#[test]
fn silent_connections_give_way() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let mut silent: Vec<_> = (0..40).map(|_| files.connect()).collect();
    // The first byte of a header.
    silent[30].write_all(&[1]).expect("sent");
    let frontend = talk(files.connect());
    // The others do not wait for a connection that may stay silent for days.
    for mut silent in silent {
        silent.set_read_timeout(Some(ring::PATIENCE)).expect("timeout");
        // Unread data turns the end of the connection into an error.
        assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
    }
    frontend.get_features().expect("GET_FEATURES");
    drop(frontend);
    // A connection that is silent for a while may send later.
    let early = files.connect();
    std::thread::sleep(Duration::from_millis(100));
    drop(talk(early));
    let (code, text) = running.terminate();
    assert_eq!((code, text.matches("a frontend has connected").count()), (Some(0), 2), "{text}");
    assert!(text.contains("the oldest silent connection is closed"), "{text}");
}

/// A header in single bytes is served. A message that stays incomplete ends the session, and the log says why.
#[test]
fn messages_in_parts() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let mut stream = files.connect();
    let get_features = words(&[1, 1, 0]);
    for byte in &get_features {
        stream.write_all(&[*byte]).expect("sent");
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).expect("a reply");
    let set_features = words(&[2, 1, 8]);
    stream.write_all(&set_features).expect("sent");
    // The device handles other connections meanwhile.
    assert_eq!(files.connect().read(&mut [0]).expect("the end"), 0);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "the session ends");
    drop(talk(files.connect()));
    let mut stream = files.connect();
    stream.write_all(&set_features).expect("sent");
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("it has sent part of a message"), "{text}");
}

/// A frontend that sends requests until the socket is full, and reads no reply.
fn full_of_replies(files: &Files) -> UnixStream {
    let mut stream = files.connect();
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("timeout");
    let get_features = words(&[1, 1, 0]);
    while stream.write_all(&get_features).is_ok() {}
    stream
}

/// The device still obeys its signals.
#[test]
fn replies_that_nobody_reads() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let _stream = full_of_replies(&files);
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
}

/// It sends no more, so nobody waits for room for a reply. Another frontend is served at once.
#[test]
fn replies_that_nobody_waits_for() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let stream = full_of_replies(&files);
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    drop(talk(files.connect()));
    drop(stream);
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
}

/// A byte that was sent with MSG_OOB looks like one that can be read, and is not.
#[test]
fn out_of_band_data() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    // SET_OWNER with a body of one byte; nothing; the header and part of the body of SET_FEATURES.
    let whole = words(&[3, 1, 1]);
    let part = words(&[2, 1, 8, 0]);
    for before in [&whole[..], &[], &part] {
        for served in [false, true] {
            let mut stream = files.connect();
            stream.set_read_timeout(Some(ring::PATIENCE)).expect("timeout");
            if served {
                let get_features = words(&[1, 1, 0]);
                stream.write_all(&get_features).expect("sent");
                stream.read_exact(&mut [0; 20]).expect("a reply");
            }
            stream.write_all(before).expect("sent");
            rustix::net::send(&stream, b"x", rustix::net::SendFlags::OOB).expect("sent");
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "the connection is closed");
            drop(talk(files.connect()));
        }
    }
    let (code, text) = running.terminate();
    assert_eq!((code, text.matches("it sends out-of-band data").count()), (Some(0), 6), "{text}");
}

/// QEMU unplugs the device and plugs it in again: the same connection, but all begins anew. Another guest's driver may
/// use it, so there must be no keys.
#[test]
fn a_frontend_that_begins_anew() {
    let mut guest = Guest::new();
    let control = guest.control();
    for round in 0..10 {
        guest.request(control, &Program::new(0, &key(1), 9).bytes(), 1).assert_only_status(OK);
        guest.request(0, &crypto_write(round, 0, [0; 4], &[1; 512]), 1).assert_only_status(OK);
        // SET_OWNER and all that follows. It stops rings that still run.
        guest.start();
        guest.request(0, &crypto_write(round, 0, [0; 4], &[1; 512]), 1).assert_only_status(NOKEY);
    }
}

/// The error for a message that cannot be served names the option to change.
#[test]
fn refusals_say_what_to_change() {
    let files = Files::new();
    let running = Running::start(&files, &["--num-queues", "2", "--queue-size", "128"]);
    let config = |address: u64| vhost::VringConfigData {
        queue_max_size: 128,
        queue_size: 64,
        flags: 0,
        desc_table_addr: address,
        used_ring_addr: address + 0x2000,
        avail_ring_addr: address + 0x1000,
        log_addr: None,
    };
    type Action<'a> = &'a dyn Fn(&mut Frontend);
    let actions: [(&str, Action<'_>); 7] = [
        ("SET_VRING_NUM: the frontend wants 256 entries in queue 0, and --queue-size is 128; raise it", &|frontend| {
            drop(frontend.set_vring_num(0, 256));
        }),
        ("SET_VRING_NUM: the frontend wants 100 entries in queue 1, which is not a power of two", &|frontend| {
            drop(frontend.set_vring_num(1, 100));
        }),
        ("SET_VRING_BASE: there is no queue 7: the device has 2 request queues", &|frontend| {
            drop(frontend.set_vring_base(7, 0));
        }),
        (
            "SET_VRING_ADDR: the ring of queue 0 cannot be reached: the frontend shares no memory; share all",
            &|frontend| {
                drop(frontend.set_vring_addr(0, &config(0x7000_0000_0000)));
            },
        ),
        ("SET_FEATURES: live migration (VHOST_F_LOG_ALL) is not supported", &|frontend| {
            drop(frontend.set_features(1 << 26 | 1 << 30 | 1 << 32));
        }),
        (
            "SET_FEATURES: the frontend sets the features 0x1000000000000000, which the device does not offer",
            &|frontend| {
                drop(frontend.set_features(1 << 60 | 1 << 32));
            },
        ),
        (
            "SET_MEM_TABLE: the message is malformed, or a region of memory has no file descriptor; share all",
            &|frontend| {
                // A table of one region, without a descriptor.
                let mut message = words(&[5, 1, 40, 1, 0]);
                message.extend([0u64, 4096, 0, 0].iter().flat_map(|number| number.to_ne_bytes()));
                // SAFETY: the socket is the frontend's, which lives longer; it is not closed here.
                let mut socket = std::mem::ManuallyDrop::new(unsafe { UnixStream::from_raw_fd(frontend.as_raw_fd()) });
                socket.write_all(&message).expect("sent");
            },
        ),
    ];
    for (_, action) in &actions {
        let mut frontend = Frontend::from_stream(files.connect(), 9);
        frontend.set_owner().expect("SET_OWNER");
        frontend.get_features().expect("GET_FEATURES");
        action(&mut frontend);
        assert!(frontend.get_features().is_err(), "the session has ended");
    }
    drop(talk(files.connect()));
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
    for (words, _) in actions {
        assert!(text.contains(words), "{words:?} is missing in: {text}");
    }
}

/// A low limit of descriptors: the device raises it if it can. If not, a session that needs more ends with a message.
#[test]
fn descriptors_run_out() {
    let shell = |limits: &str| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{limits}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_vhost-user-blk-crypto")]);
        command
    };
    let pass = |stream: UnixStream| {
        stream.set_read_timeout(Some(ring::PATIENCE)).expect("timeout");
        let frontend = Frontend::from_stream(stream, 65);
        frontend.get_features().expect("GET_FEATURES");
        for queue in 0..65 {
            let event = EventFd::new(EFD_NONBLOCK).expect("eventfd");
            if frontend.set_vring_call(queue, &event).is_err() {
                break;
            }
        }
        frontend.get_features().map_err(|error| assert!(!error.to_string().contains("temporary"), "it hangs: {error}"))
    };
    let files = Files::new();
    let running = Running::start_by(shell("ulimit -Sn 64"), &files, &["--workers", "1"]);
    pass(files.connect()).expect("the soft limit does not matter");
    let (code, text) = running.terminate();
    assert!(code == Some(0) && !text.contains("warn"), "{text}");

    let files = Files::new();
    let running = Running::start_by(shell("ulimit -n 64"), &files, &["--workers", "1"]);
    for _ in 0..3 {
        pass(files.connect()).expect_err("too many descriptors");
    }
    drop(talk(files.connect()));
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("descriptors, and the limit is 64"), "{text}");
    assert_eq!(
        text.matches("it passes more descriptors than a message may have (32), or than can be open here (64)").count(),
        3,
        "{text}"
    );
}

/// More descriptors than any message has: the `vhost` crate would parse the following messages wrongly.
#[test]
fn too_many_descriptors_in_a_message() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let mut stream = files.connect();
    let event = EventFd::new(EFD_NONBLOCK).expect("eventfd");
    let message = words(&[13, 1, 8, 0, 0]);
    stream.send_with_fds(&[&message[..]], &[event.as_raw_fd(); 40]).expect("sent");
    stream.set_read_timeout(Some(ring::PATIENCE)).expect("timeout");
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "the device closes the connection");
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("it passes more descriptors than a message may have (32)"), "{text}");
}

/// Reading the configuration space past its end fails, and the session goes on. A read that begins inside is served.
#[test]
fn the_configuration_space_past_its_end() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let mut stream = files.connect();
    stream.set_read_timeout(Some(ring::PATIENCE)).expect("timeout");
    // SET_PROTOCOL_FEATURES with nothing but CONFIG.
    stream.write_all(&words(&[16, 1, 8, 1 << 9, 0])).expect("sent");
    let mut get = |offset: u32, size: u32| {
        let payload = vec![0; size as usize];
        stream.write_all(&[words(&[24, 1, 12 + size, offset, size, 0]), payload].concat()).expect("sent");
        let mut reply = [0; 24];
        stream.read_exact(&mut reply).expect("a reply");
        let word = |at: usize| u32::from_ne_bytes(reply[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!([word(0), word(4), word(12), word(8)], [24, 5, offset, 12 + word(16)]);
        let mut bytes = vec![0; word(16) as usize];
        stream.read_exact(&mut bytes).expect("the rest of it");
        bytes
    };
    let whole = get(0, 104);
    assert_eq!(whole[..8], 2048u64.to_le_bytes(), "the capacity");
    for (offset, size) in [(0x100, 60), (104, 1), (4000, 96)] {
        assert_eq!(get(offset, size), [0; 0], "a size of 0 is an error");
        assert_eq!(get(0, 104), whole);
    }
    let mut tail = whole[96..].to_vec();
    tail.resize(60, 0);
    assert_eq!(get(96, 60), tail, "begins inside");
    drop(stream);
    // The `vhost` crate's frontend waits for as many bytes as it has asked for.
    let mut frontend = talk(files.connect());
    frontend.get_protocol_features().expect("GET_PROTOCOL_FEATURES");
    frontend.set_protocol_features(VhostUserProtocolFeatures::CONFIG).expect("SET_PROTOCOL_FEATURES");
    let read = frontend.get_config(0x100, 60, VhostUserConfigFlags::empty(), &[0; 60]);
    assert!(read.is_err(), "the read ends with an error");
    drop(talk(files.connect()));
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("60 bytes of the configuration space at 0x100, but that has 104 bytes"), "{text}");
    assert!(text.contains("it waits for the rest of a reply"), "{text}");
}

/// An unsupported message ends the session with an error that names it.
#[test]
fn messages_that_are_refused() {
    let number = |value: u64| value.to_ne_bytes().to_vec();
    let log = [number(4096), number(0)].concat();
    let messages: [(u32, Vec<u8>, &str); 17] = [
        (6, log, "SET_LOG_BASE: the feature that it belongs to was not negotiated"),
        (7, vec![], "SET_LOG_FD: the message is malformed, or not supported"),
        (12, number(0x100), "SET_VRING_KICK: a queue without a notification descriptor (VHOST_USER_VRING_NOFD_MASK)"),
        (19, number(0), "SEND_RARP: the message is malformed, or not supported"),
        (20, number(1500), "NET_SET_MTU: the message is malformed, or not supported"),
        (22, vec![0; 32], "IOTLB_MSG: the message is malformed, or not supported"),
        (23, number(0), "SET_VRING_ENDIAN: the message is malformed, or not supported"),
        (26, number(0), "CREATE_CRYPTO_SESSION: the message is malformed, or not supported"),
        (28, vec![], "POSTCOPY_ADVISE: the message is malformed, or not supported"),
        (33, vec![], "GPU_SET_SOCKET: the message is malformed, or not supported"),
        (35, number(0), "VRING_KICK: the message is malformed, or not supported"),
        (39, number(0), "SET_STATUS: the message is malformed, or not supported"),
        (40, vec![], "GET_STATUS: the message is malformed, or not supported"),
        (41, vec![0; 16], "GET_SHARED_OBJECT: the feature that it belongs to was not negotiated"),
        (44, vec![], "GET_SHMEM_CONFIG: the feature that it belongs to was not negotiated"),
        (45, number(0), "message 45 is not known"),
        (999, vec![], "message 999 is not known"),
    ];
    // The program says ten of these in a row.
    for messages in messages.chunks(10) {
        let files = Files::new();
        let running = Running::start(&files, &[]);
        for (request, payload, _) in messages {
            let mut stream = files.connect();
            stream.set_read_timeout(Some(ring::PATIENCE)).expect("timeout");
            let header = [*request, 1, payload.len() as u32].map(u32::to_ne_bytes).concat();
            stream.write_all(&[header, payload.clone()].concat()).expect("sent");
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "closed, not answered: {request}");
        }
        drop(talk(files.connect()));
        let (code, text) = running.terminate();
        assert_eq!(code, Some(0), "{text}");
        for (_, _, words) in messages {
            assert!(text.contains(words), "{words:?} is missing in: {text}");
        }
    }
}

/// The device's state cannot migrate. The reply says so.
#[test]
fn migration_is_answered_with_no() {
    let files = Files::new();
    let _running = Running::start(&files, &[]);
    let mut stream = files.connect();
    stream.set_read_timeout(Some(ring::PATIENCE)).expect("timeout");
    stream.write_all(&words(&[43, 1, 0])).expect("sent");
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply[..], words(&[43, 5, 8, 1, 0]), "CHECK_DEVICE_STATE");
    let file = File::open(files.image()).expect("file");
    stream.send_with_fds(&[&words(&[42, 1, 8, 0, 0])[..]], &[file.as_raw_fd()]).expect("sent");
    stream.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply[..], words(&[42, 5, 8, 0x101, 0]), "SET_DEVICE_STATE_FD");
    drop(stream);
    drop(talk(files.connect()));
}

/// RESET_OWNER is deprecated, but some frontends send it: all queues stop, no key is left, and a new start works. Also
/// queues without an interrupt eventfd.
#[test]
fn the_owner_gives_the_device_up() {
    let mut guest = Guest::new();
    let control = guest.control();
    guest.request(control, &Program::new(0, &key(1), 9).bytes(), 1).assert_only_status(OK);
    guest.frontend().reset_owner().expect("RESET_OWNER");
    guest.frontend().get_features().expect("GET_FEATURES");
    guest.rings[0].add(&write_request(0, &[1; 512]), 1);
    guest.rings[0].kick();
    guest.rings[0].assert_silent();
    guest.start();
    guest.request(0, &crypto_write(0, 0, [0; 4], &[1; 512]), 1).assert_only_status(NOKEY);
    // VHOST_USER_VRING_NOFD_MASK in SET_VRING_CALL and SET_VRING_ERR.
    let mut connection = guest.connection.as_ref().expect("connected").try_clone().expect("socket");
    for request in [13u32, 14] {
        let message: Vec<u8> = [request, 1, 8, 0x100, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        connection.write_all(&message).expect("sent");
    }
    guest.frontend().get_features().expect("GET_FEATURES");
    guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
}
