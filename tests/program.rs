// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The program itself: options, signals, the lock on the image. Its sockets are in sockets.rs.

mod common;

use std::fs::File;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::process::*;
use common::{OK, write_request};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;

#[test]
fn the_list_of_personalities_needs_no_image() {
    let (code, text) = output(program().arg("--list-personalities"));
    assert_eq!(code, Some(0));
    for name in ["ideal", "ufs-3.1", "qcom-ice", "exynos-fmp", "emmc-cqhci", "one-slot", "wide"] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name}: {text}");
    }
}

/// A personality file defines the device, and the program reports its errors.
#[test]
fn a_personality_from_a_file() {
    let files = Files::new();
    let file = files.path("own.toml");
    let run = |text: &str| {
        std::fs::write(&file, text).expect("file");
        let running = Running::start(&files, &["--personality", file.to_str().expect("path"), "--num-queues", "2"]);
        if files.path("socket").exists() {
            running.signal(libc::SIGTERM);
        }
        running.finish()
    };
    let (code, text) = run("summary = \"x\"\nkeyslots = 5\nqueues = 9\nkeys_on_reset = \"kept\"\n");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("engine own: 5 keyslots, 2 request queues"), "{text}");
    assert!(text.contains("keys survive a reset"), "{text}");
    // Without keyslots there are none to keep.
    let (code, text) = run("summary = \"x\"\nkeyslots = 0\nkeys_on_reset = \"kept\"\n");
    assert!(code == Some(0) && !text.contains("keys survive"), "{text}");
    let (code, text) = run("summary = \"x\"\nkeyslots = 5000\n");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("own.toml: keyslots is 5000; allowed is 0 to 4096"), "{text}");
    let (code, text) = run("summary = \"x\"\ncrypto_modes = [\"aes-128-cbc-essiv\"]\n");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cannot be emulated"), "{text}");
}

#[test]
fn capabilities() {
    let (code, text) = output(program().arg("--print-capabilities"));
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["type"], "block");
    let features = json["features"].as_array().expect("features");
    assert!(features.contains(&"read-only".into()) && features.contains(&"blk-file".into()));
}

#[test]
fn bad_starts_say_what_to_change() {
    let files = Files::new();
    let image = files.image();
    let with = |path: &Path, options: &[&str]| {
        output(program().arg("--socket-path").arg(files.path("s")).arg("--blk-file").arg(path).args(options))
    };
    let odd = files.path("odd");
    std::fs::write(&odd, [0; 1000]).expect("file");
    let empty = files.path("empty");
    std::fs::write(&empty, []).expect("file");
    for (path, options, word) in [
        (&odd, &[][..], "truncate -s 1024"),
        (&empty, &[], "is empty"),
        (&files.path("missing"), &[], "No such file"),
        (&files.directory.path().to_owned(), &[], "neither a regular file nor a block device"),
        (&"/dev/null".into(), &[], "neither a regular file nor a block device"),
        (&image, &["--logical-block-size", "1000"], "power of two"),
        (&image, &["--keyslots", "4097"], "4096"),
        (&image, &["--data-unit-sizes", "500"], "power of two"),
        (&image, &["--fd", "3"], "cannot be used with"),
        (&image, &["--serial", "a serial number that is too long"], "20"),
    ] {
        let (code, text) = with(path, options);
        assert_ne!(code, Some(0), "{text}");
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    let blk = |options: &[&str]| output(program().arg("--blk-file").arg(&image).args(options));
    assert!(blk(&[]).1.contains("--socket-path"), "where to listen");
    assert!(blk(&["--fd", "77"]).1.contains("not open"));
    assert!(blk(&["--fd", "1"]).1.contains("standard stream"));
    assert!(blk(&["--socket-path", "/nonexistent/s"]).1.contains("/nonexistent/s"));
    let file = files.path("file");
    std::fs::write(&file, "precious").expect("file");
    let (_, text) = output(program().arg("--blk-file").arg(&image).arg("--socket-path").arg(&file));
    assert!(text.contains("is not a socket"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).expect("file"), "precious");
}

/// An option names a wrong kind of file, or another option's file. The program says so at once, and changes nothing.
#[test]
fn files_that_cannot_be_used() {
    let files = Files::new();
    let path = |name: &str| files.path(name).to_str().expect("UTF-8").to_owned();
    // The guest may have written this: the image begins like a trace.
    let image = [&b"VUBCTRAC"[..], &[1; 4088]].concat();
    std::fs::write(files.image(), &image).expect("image");
    std::fs::hard_link(files.image(), files.path("link")).expect("link");
    std::os::unix::fs::symlink(files.image(), files.path("symlink")).expect("link");
    let pipe = Command::new("mkfifo").arg(files.path("pipe")).status().expect("mkfifo");
    assert!(pipe.success());
    let _socket = UnixListener::bind(files.path("socket-file")).expect("socket");
    let mut key = program();
    key.args(["--key-types", "wrapped", "--wrapping-key-file", &path("key"), "--blk-file", &path("image")]);
    // The program creates the key file before it fails to listen.
    assert_ne!(output(&mut key).0, Some(0));
    let key = std::fs::read(files.path("key")).expect("key");
    assert_eq!(key.len(), 32);

    let wrapped = ["--key-types", "wrapped", "--wrapping-key-file"];
    let check = |image_name: &str, options: &[&str], word: &str| {
        let mut command = program();
        command.args(["--socket-path", &path("socket"), "--blk-file", &path(image_name)]).args(options);
        let started = Instant::now();
        let mut running = Running(command.stderr(Stdio::piped()).spawn().expect("program"));
        wait_for(|| running.exited() || started.elapsed() > Duration::from_secs(10));
        assert!(running.exited(), "{options:?}: the program does not exit");
        let (code, text) = running.finish();
        assert!(code == Some(1) && text.contains(word), "{options:?}: {word:?} is missing in: {text}");
        assert!(!files.path("socket").exists(), "{options:?}");
        assert!(std::fs::read(files.image()).expect("image") == image, "{options:?}: the image is changed");
        assert!(std::fs::read(files.path("key")).expect("key") == key, "{options:?}: the key is changed");
    };
    for name in ["image", "link", "symlink"] {
        for option in ["--stats", "--trace"] {
            check("image", &[option, &path(name)], "--blk-file; give");
        }
        check("image", &[&wrapped[..], &[&path(name)]].concat(), "--blk-file; give");
    }
    for option in ["--stats", "--trace"] {
        check("image", &[&wrapped[..], &[&path("key"), option, &path("key")]].concat(), "--wrapping-key-file; give");
    }
    check("image", &["--stats", &path("new"), "--trace", &path("new")], "--stats; give");
    check("image", &["--stats", &path("pipe")], "a pipe that nobody reads");
    check("image", &[&wrapped[..], &[&path("pipe")]].concat(), "no regular file");
    for name in ["pipe", "socket-file"] {
        check(name, &[], "neither a regular file nor a block device");
    }

    let running = Running::start(&files, &["--sandbox", "none", "--control", &path("control")]);
    let _served = talk(UnixStream::connect(files.path("socket")).expect("connect"));
    for name in ["image", "link", "symlink"] {
        let ctl = ["ctl", "--control", &path("control"), "trace", "on", &path(name)];
        let (code, text) = output(program().args(ctl));
        assert!(code == Some(2) && text.contains("it is an image"), "{text}");
    }
    assert!(std::fs::read(files.image()).expect("image") == image, "the image is changed");
    drop(running);
}

/// If nobody reads a trace or the counters from a pipe, the program does not wait: it exits on SIGTERM.
#[test]
fn pipes_that_nobody_empties() {
    let files = Files::new();
    let pipe = Command::new("mkfifo").arg(files.path("pipe")).status().expect("mkfifo");
    assert!(pipe.success());
    let path = files.path("pipe").to_str().expect("UTF-8").to_owned();
    let mut reader =
        std::fs::File::options().read(true).write(true).open(&path).expect("both ends, so that neither waits");
    for option in ["--stats", "--trace"] {
        // Fills the pipe.
        let flags = rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&reader, flags).expect("pipe");
        while std::io::Write::write(&mut reader, &[0; 4096]).is_ok() {}
        let running = Running::start(&files, &[option, &path]);
        // A trace writes its header at once.
        if option == "--stats" {
            drop(talk(UnixStream::connect(files.path("socket")).expect("connect")));
            running.signal(libc::SIGTERM);
        }
        let (code, text) = running.finish();
        assert!(code == Some(1) && text.contains("temporarily unavailable"), "{option}: {text}");
    }
}

/// The program locks as much memory as THREATS.md says.
#[test]
fn locked_memory_of_keyslots() {
    if rustix::param::page_size() != 4096 {
        return;
    }
    let table = include_str!("../THREATS.md");
    assert!(table.contains("locked, 8 KiB each: 4096 are 32 MiB, the default of 32 is 256 KiB"));
    for (options, kib) in [(&[][..], 256), (&["--keyslots", "512"], 4096), (&["--fault", "previous-key"], 256 + 33 * 8)]
    {
        let files = Files::new();
        let running = Running::start(&files, options);
        let _served = talk(UnixStream::connect(files.path("socket")).expect("connect"));
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.0.id())).expect("status");
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("VmLck");
        assert_eq!(locked.trim(), format!("{kib} kB"), "{options:?}");
    }
}

#[test]
fn signals_end_it_well() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        for connected in [false, true] {
            let files = Files::new();
            let stats = files.path("stats.json");
            let running = Running::start(&files, &["--stats", stats.to_str().expect("path")]);
            let frontend = connected.then(|| talk(UnixStream::connect(files.path("socket")).expect("connect")));
            running.signal(signal);
            let (code, text) = running.finish();
            assert_eq!(code, Some(0), "{text}");
            assert!(!files.path("socket").exists(), "the socket is removed");
            let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&stats).expect("stats")).expect("JSON");
            assert_eq!(json["keyslots"]["program"], 0);
            assert_eq!(json["events"]["flush"], 1, "flushed at the end");
            drop(frontend);
        }
    }
}

/// A frontend that does not confirm a new size does not delay the end.
#[test]
fn a_silent_frontend_delays_no_signal() {
    for by_signal in [true, false] {
        silent_frontend(by_signal);
    }
}

fn silent_frontend(by_signal: bool) {
    let files = Files::new();
    let control = files.path("control").display().to_string();
    let running = Running::start(&files, &["--control", &control]);
    let mut frontend = talk(files.connect());
    let all = frontend.get_protocol_features().expect("GET_PROTOCOL_FEATURES");
    frontend.set_protocol_features(all).expect("SET_PROTOCOL_FEATURES");
    let (mut ours, theirs) = UnixStream::pair().expect("socket pair");
    ours.set_read_timeout(Some(PATIENCE)).expect("timeout");
    frontend.set_backend_request_fd(&theirs).expect("SET_BACKEND_REQ_FD");
    // It has a reply: the message before is done.
    frontend.get_features().expect("GET_FEATURES");
    File::options().write(true).open(files.image()).expect("image").set_len(2 << 20).expect("image");
    let mut ctl = program();
    let ctl = ctl.args(["ctl", "--control", &control, "resize"]).stdout(Stdio::null());
    let ctl = (!by_signal).then(|| Running(ctl.spawn().expect("ctl")));
    if by_signal {
        running.signal(libc::SIGHUP);
    }
    ours.read_exact(&mut [0; 12]).expect("CONFIG_CHANGE_MSG");
    let started = Instant::now();
    let (code, text) = running.terminate();
    drop(ctl);
    // The device waits 5 seconds for a reply.
    assert!(code == Some(0) && started.elapsed() < Duration::from_secs(3), "{:?}: {text}", started.elapsed());
}

/// However often a frontend sends messages that are worth a line in the log.
#[test]
fn a_frontend_cannot_fill_the_log() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let mut frontend = talk(files.connect());
    let all = frontend.get_protocol_features().expect("GET_PROTOCOL_FEATURES");
    frontend.set_protocol_features(all).expect("SET_PROTOCOL_FEATURES");
    let no_socket = File::open(files.image()).expect("image");
    for _ in 0..50 {
        frontend.set_owner().expect("SET_OWNER");
        frontend.set_backend_request_fd(&no_socket).expect("SET_BACKEND_REQ_FD");
    }
    // It has a reply: the messages before are done.
    frontend.get_features().expect("GET_FEATURES");
    let (_, text) = running.terminate();
    let lines = ["starts over", "channel cannot be used"].map(|line| text.matches(line).count());
    assert_eq!(lines, [10, 10], "{text}");
}

/// A second signal ends the program even if the disk hangs in the last flush.
#[test]
fn a_second_signal_ends_a_flush_that_hangs() {
    let files = Files::new();
    let (source, library, hanging) = (files.path("hang.c"), files.path("hang.so"), files.path("hanging"));
    let text = "#include <fcntl.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
                int fdatasync(int fd) { creat(getenv(\"HANGING\"), 0600); for (;;) sleep(1); }\n";
    std::fs::write(&source, text).expect("file");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().expect("cc");
    assert!(compiled.success());
    let mut command = program();
    command.env("LD_PRELOAD", &library).env("HANGING", &hanging);
    let running = Running::start_by(command, &files, &["--sandbox", "none"]);
    running.signal(libc::SIGTERM);
    wait_for(|| hanging.exists());
    let (code, text) = running.terminate();
    assert!(code == Some(1) && text.contains("exiting at once"), "{text}");
}

#[test]
fn one_writer_for_an_image() {
    let files = Files::new();
    let _running = Running::start(&files, &[]);
    let second = |options: &[&str]| {
        program()
            .arg("--socket-path")
            .arg(files.path("second"))
            .arg("--blk-file")
            .arg(files.image())
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .expect("program")
    };
    let (code, text) = Running(second(&[])).finish();
    assert!(code != Some(0) && text.contains("in use by another device"), "{text}");
    let mut reader = Running(second(&["--read-only"]));
    wait_for(|| files.path("second").exists() || reader.exited());
    assert!(!reader.exited());
}

#[test]
fn core_dumps_are_off() {
    let files = Files::new();
    let running = Running::start(&files, &[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.0.id())).expect("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("core limit");
    assert!(core.split_whitespace().nth(4) == Some("0"), "{core}");
}

/// A device with a control socket and a trace, queried by the program's client. The socket is removed at the end.
#[test]
fn control_socket_and_trace() {
    let files = Files::new();
    let (control, trace) = (files.path("control"), files.path("trace"));
    let path = |path: &Path| path.to_str().expect("path").to_owned();
    let options = ["--control", &path(&control), "--trace", &path(&trace), "--keyslots", "7", "--latency"];
    let running = Running::start(&files, &options);
    let ctl = |words: &[&str]| output(program().args(["ctl", "--control"]).arg(&control).args(words));
    let frontend = talk(UnixStream::connect(files.path("socket")).expect("connect"));
    let (code, text) = ctl(&["status", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], running.0.id());
    assert_eq!(status["image"]["path"], path(&files.image()));
    assert_eq!(
        (&status["engine"]["personality"], &status["options"]["timing"]["program_us"]),
        (&"ideal".into(), &0.into())
    );
    assert_eq!((&status["options"]["keyslots"], &status["connected"]), (&7.into(), &true.into()));
    assert_eq!((&status["latency"], &status["trace"]["file"]), (&true.into(), &path(&trace).into()));
    let (code, text) = ctl(&["trace", "dump"]);
    assert_eq!((code, text.as_str()), (Some(0), ""), "no request so far");
    let (code, text) = output(
        program()
            .args(["--socket-path", "/nonexistent/s", "--blk-file"])
            .arg(files.image())
            .args(["--read-only"])
            .args(["--control", &path(&control)]),
    );
    assert!(code != Some(0), "{text}");
    drop(frontend);
    running.signal(libc::SIGTERM);
    let (code, text) = running.finish();
    assert_eq!(code, Some(0), "{text}");
    assert!(!control.exists(), "the control socket is removed");
    assert!(std::fs::read(&trace).expect("trace").starts_with(b"VUBCTRAC"));
    let (code, text) = ctl(&["status"]);
    assert!(code == Some(2) && text.contains("no device answers"), "{text}");
}

#[test]
fn faults_are_checked_at_the_start() {
    let files = Files::new();
    let run = |fault: &str| {
        output(
            program().args(["--socket-path", "/nonexistent/socket", "--fault", fault, "--blk-file"]).arg(files.image()),
        )
    };
    let (code, text) = run("io-error,op=flsh");
    assert_eq!(code, Some(2));
    assert!(text.contains("there is no operation \"flsh\"") && text.contains("write-zeroes"), "{text}");
    let running = Running::start(&files, &["--fault", "delay=1ms,op=read", "--fault", "plaintext"]);
    running.signal(signal_hook::consts::SIGTERM);
    let (code, text) = running.finish();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("fault 2: plaintext") && text.contains("this device has faults"), "{text}");
}

/// File names are bytes, but JSON is text.
#[test]
fn names_that_are_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let files = Files::new();
    let name = |tail: &[u8]| files.directory.path().join(std::ffi::OsStr::from_bytes(&[tail, b"\xff\xfe"].concat()));
    let (image, control, trace) = (name(b"image"), name(b"control"), name(b"trace"));
    File::create(&image).expect("image").set_len(1 << 20).expect("image");
    let mut command = program();
    command.arg("--socket-path").arg(files.path("socket")).arg("--blk-file").arg(&image);
    command.arg("--control").arg(&control).arg("--trace").arg(&trace).stderr(Stdio::piped());
    let mut running = Running(command.spawn().expect("program"));
    wait_for(|| running.exited() || UnixStream::connect(files.path("socket")).is_ok());
    let ctl = |words: &[&str]| output(program().args(["ctl", "--control"]).arg(&control).args(words));
    let (code, text) = ctl(&["status", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(status["image"]["path"].as_str().is_some_and(|path| path.contains("/image\u{fffd}")), "{text}");
    assert!(status["trace"]["file"].as_str().is_some_and(|path| path.contains("/trace\u{fffd}")), "{text}");
    let (code, text) = output(program().args(["ctl", "--control"]).arg(&control).args(["trace", "on"]).arg(&trace));
    assert!(code == Some(2) && text.contains("UTF-8"), "{text}");
    let (code, text) = running.terminate();
    assert_eq!(code, Some(0), "{text}");
}

/// Standard output is closed or full: no panic, and only the latter is an error.
#[test]
fn output_that_goes_nowhere() {
    for words in
        [&["--print-capabilities"][..], &["--list-personalities"], &["--help"], &["--version"], &["ctl", "--help"]]
    {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let command = program().args(words).stdout(full).stderr(Stdio::piped()).output().expect("program");
        let text = String::from_utf8_lossy(&command.stderr).into_owned();
        assert!(command.status.code() == Some(1) && text.contains("cannot write"), "{words:?}: {text}");
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let command = program().args(words).stdout(writer).stderr(Stdio::piped()).output().expect("program");
        let text = String::from_utf8_lossy(&command.stderr).into_owned();
        assert!(command.status.code() == Some(0) && text.is_empty(), "{words:?}: {text}");
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        assert_eq!(program().args(words).stderr(full).output().expect("program").status.code(), Some(0));
    }
    // Standard error is full.
    let full = || File::options().write(true).open("/dev/full").expect("/dev/full");
    for words in [&["--nonsense"][..], &["ctl", "--control", "/nonexistent", "status"]] {
        assert_eq!(program().args(words).stderr(full()).output().expect("program").status.code(), Some(2));
    }
    let files = Files::new();
    let mut command = program();
    command.arg("--socket-path").arg(files.path("socket")).arg("--blk-file").arg(files.image()).stderr(full());
    let mut running = Running(command.spawn().expect("program"));
    wait_for(|| running.exited() || UnixStream::connect(files.path("socket")).is_ok());
    drop(talk(files.connect()));
    assert_eq!(running.terminate().0, Some(0));
}

/// The tests run on this host, so it has all that the device needs.
#[test]
fn the_selftest_tells_what_is_there_and_what_to_do() {
    let (code, text) = output(program().args(["selftest", "--qemu", "/none"]));
    assert_eq!(code, Some(0), "{text}");
    for line in ["AES-256-XTS by portable: encrypts", "a keyslot: takes a key", "sandbox: "] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("missing  /none: No such file"), "{text}");
    assert!(text.ends_with("The device can serve frontends here.\n"), "{text}");
    let (code, text) = output(
        Command::new("sh")
            .args(["-c", "ulimit -l 0; exec \"$0\" \"$@\""])
            .arg(program().get_program())
            .args(["selftest", "--qemu", "/none"]),
    );
    // A privileged process has no limit.
    if code != Some(0) {
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("FAILED   a keyslot: its memory cannot be locked; raise the limit"), "{text}");
        assert!(text.ends_with("The device cannot serve frontends here.\n"), "{text}");
    }
}

/// The completions for a shell are a valid script with all options.
#[test]
fn completions() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, text) = output(program().args(["completions", shell]));
        assert_eq!(code, Some(0));
        for word in ["blk-file", "keyslots", "inspect", "selftest"] {
            assert!(text.contains(word), "{shell}: {word}");
        }
        let files = Files::new();
        let script = files.path("script");
        std::fs::write(&script, text).expect("a file");
        match Command::new(shell).arg("-n").arg(&script).status() {
            Ok(status) => assert!(status.success(), "{shell} rejects its script"),
            Err(error) => eprintln!("{shell}: {error}"),
        }
    }
}

/// Without requests, a device costs no CPU time: its workers sleep. Nor does a queue that a driver has broken.
#[test]
fn an_idle_device_sleeps() {
    let files = Files::new();
    let running = Running::start(&files, &["--num-queues", "2"]);
    let mut guest = files.guest();
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.0.id())).expect("the program");
        // utime and stime, after the name.
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<u64>().expect("ticks")).sum::<u64>()
    };
    for broken in [false, true] {
        guest.request(0, &write_request(0, &[1; 512]), 1).assert_only_status(OK);
        if broken {
            let index = guest.rings[0].next_avail.wrapping_add(500);
            guest.rings[0].set_avail_index(index);
            guest.rings[0].kick();
        }
        std::thread::sleep(Duration::from_millis(100));
        let before = ticks();
        std::thread::sleep(Duration::from_secs(1));
        let used = ticks() - before;
        assert!(used < 20, "{used} hundredths of a second of CPU time (broken: {broken})");
    }
}

/// Workers run on the CPUs that the user names, and so does the one thread of a UFS host controller.
#[test]
fn workers_are_bound_to_cpus() {
    let may = rustix::thread::sched_getaffinity(None).expect("CPUs");
    let cpu = (0..rustix::thread::CpuSet::MAX_CPU).rfind(|cpu| may.is_set(*cpu)).expect("a CPU").to_string();
    let files = [Files::new(), Files::new()];
    let start = |files, options: &[&str]| Running::start(files, &[options, &["--cpus", &cpu]].concat());
    let on_the_cpu = |device: &Running, worker: &str| wait_for(|| cpus_of(device, worker).as_ref() == Some(&cpu));
    let device = start(&files[0], &["--num-queues", "2", "--workers", "2"]);
    let _frontend = talk(files[0].connect());
    on_the_cpu(&device, "worker 0");
    on_the_cpu(&device, "worker 1");
    let device = start(&files[1], &["--ufs"]);
    let _client = files[1].connect();
    on_the_cpu(&device, "ufs");
}

/// The CPUs on which the thread with this name may run.
fn cpus_of(device: &Running, name: &str) -> Option<String> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", device.0.id())).ok()?;
    let read = |thread: &Path, file: &str| std::fs::read_to_string(thread.join(file)).unwrap_or_default();
    let mut threads = threads.filter_map(|entry| Some(entry.ok()?.path()));
    let status = read(&threads.find(|thread| read(thread, "comm").trim_end() == name)?, "status");
    status.lines().find_map(|line| Some(line.strip_prefix("Cpus_allowed_list:")?.trim().to_owned()))
}
