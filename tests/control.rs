// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The control socket, with the device in this process behind it, and the program's client.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::process::wait_for;
use common::*;
use scattered_xts::Implementation;
use serde_json::{Value, json};
use tempfile::TempDir;
use vhost_user_blk_crypto::control::{COMMANDS, ControlServer, Listener, MAX_CLIENTS, MAX_LINE};

struct Setup {
    guest: Guest,
    server: Option<ControlServer>,
    directory: TempDir,
}

impl Setup {
    fn new() -> Self {
        let guest = Guest::new();
        let directory = TempDir::new().expect("directory");
        let device = Arc::clone(&guest.device);
        let about = json!({ "version": "0", "image": { "path": "/image" } });
        let listener = Listener::at_path(&directory.path().join("control")).expect("control socket");
        let server = ControlServer::start(listener, device, about).expect("control socket");
        Self { guest, server: Some(server), directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn client(&self) -> Client {
        let stream = UnixStream::connect(self.path("control")).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        Client(BufReader::new(stream))
    }

    fn ask(&self, request: Value) -> Value {
        let reply = self.client().ask(&request.to_string());
        assert_eq!((&reply["version"], &reply["ok"]), (&json!(1), &json!(true)), "{reply}");
        reply["result"].clone()
    }

    fn error(&self, request: &str) -> String {
        let reply = self.client().ask(request);
        assert_eq!((&reply["version"], &reply["ok"]), (&json!(1), &json!(false)), "{reply}");
        assert!(reply["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{reply}");
        reply["error"]["code"].as_str().expect("code").to_owned()
    }

    fn program(&mut self, slot: u32, seed: u64) {
        let control = self.guest.control();
        self.guest.request(control, &Program::new(slot, &key(seed), 12).bytes(), 1).assert_only_status(OK);
    }

    fn ctl(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto"));
        command.arg("ctl").args(words).arg("--control").arg(self.path("control")).stdin(Stdio::null());
        let Output { status, stdout, stderr } = command.output().expect("program");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (status.code(), text(stdout), text(stderr))
    }

    /// Output of a `ctl` that succeeds.
    fn ctl_ok(&self, words: &[&str]) -> String {
        let (code, out, err) = self.ctl(words);
        assert_eq!(code, Some(0), "{words:?}: {err}");
        out
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn ask(&mut self, line: &str) -> Value {
        self.send(&format!("{line}\n"));
        self.read()
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("send");
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("reply");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Waits for the end of the connection.
    fn at_end(&mut self) -> bool {
        self.0.read_to_end(&mut Vec::new()).is_ok()
    }
}

#[test]
fn status_tells_what_the_device_is() {
    let mut setup = Setup::new();
    setup.program(1, 1);
    let status = setup.ask(json!({"command": "status", "version": 1}));
    assert_eq!(status["version"], "0", "what the program says");
    assert_eq!(
        status["engine"],
        json!({"crypto_engine": Implementation::detect().name(), "modes": ["AES-256-XTS"], "keyslots": 4, "keyslots_in_use": 1, "key_types": ["raw"],
            "data_unit_sizes": [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536], "max_dun_bytes": 16,
            "digests": ["crc32c", "xxhash64", "sha256", "blake2b-256"]})
    );
    assert_eq!((&status["image"]["bytes"], &status["image"]["path"]), (&json!(8 << 20), &json!("/image")));
    assert_eq!((&status["image"]["aio"], &status["image"]["in_memory"]), (&json!("sync"), &json!(false)));
    assert_eq!(status["connected"], true);
    assert_eq!(status["features"]["bits"], format!("{:#x}", setup.guest.features));
    let names = status["features"]["names"].as_array().expect("names");
    assert!(names.contains(&json!("INLINE_ENCRYPTION")));
    assert!(!names.contains(&json!("RO")) && !names.contains(&json!("ACCESS_PLATFORM")), "{names:?}");
    assert_eq!(
        status["queues"],
        json!([{"queue": 0, "role": "request"}, {"queue": 1, "role": "request"}, {"queue": 2, "role": "control"}])
    );
    assert_eq!(status["trace"], Value::Null);
    setup.guest.disconnect();
    let status = setup.ask(json!({"command": "status"}));
    assert_eq!((&status["connected"], &status["queues"]), (&json!(false), &json!([])));
}

#[test]
fn keyslots_tell_all_but_the_key() {
    let mut setup = Setup::new();
    setup.program(3, 1);
    setup.program(3, 2);
    setup.program(0, 3);
    let control = setup.guest.control();
    setup.guest.request(control, &evict(0), 1).assert_only_status(OK);
    setup.guest.request(0, &crypto_write(8, 3, [1, 0, 0, 0], &pattern(1, 8192)), 1).assert_only_status(OK);
    let slot = json!({"slot": 3, "generation": 2, "mode": "AES-256-XTS", "data_unit_size": 4096, "dun_bytes": 8,
        "programs": 2, "evictions": 0, "hits": 1});
    assert_eq!(setup.ask(json!({"command": "keyslots"})), json!({"keyslots": [slot]}));
    let all = setup.ask(json!({"command": "keyslots", "all": true}));
    assert_eq!(all["keyslots"][0], json!({"slot": 0, "programs": 1, "evictions": 1, "hits": 0}));
    assert_eq!(all["keyslots"].as_array().map(Vec::len), Some(4));
}

/// After a reset of the engine, requests get NOKEY until the driver programs its keys again. Nothing else changes.
#[test]
fn an_engine_that_is_reset_has_lost_its_keys() {
    let mut setup = Setup::new();
    setup.program(0, 1);
    setup.program(1, 2);
    let plain = pattern(5, 4096);
    setup.guest.request(0, &crypto_write(8, 1, [7, 0, 0, 0], &plain), 1).assert_only_status(OK);
    assert_eq!(setup.ask(json!({"command": "reset-engine"})), json!({"lost_keys": 2}));
    let read = crypto_header(CRYPTO_IN, 8, 1, [7, 0, 0, 0]);
    setup.guest.request(0, &read, 4097).assert_only_status(NOKEY);
    setup.program(1, 2);
    let answer = setup.guest.request(0, &read, 4097);
    assert!(answer.status == OK && answer.data == plain);
    let stats = setup.ask(json!({"command": "stats"}));
    assert_eq!((&stats["keyslots"]["lost"], &stats["events"]["engine_reset"]), (&json!(2), &json!(1)));
    assert_eq!(stats["keyslots"]["nokey"], 1);
}

#[test]
fn mistakes_get_an_answer() {
    let setup = Setup::new();
    for (request, code) in [
        ("x", "bad-request"),
        ("[]", "bad-request"),
        ("{}", "bad-request"),
        (r#"{"command": 1}"#, "bad-request"),
        (r#"{"command": "faults"}"#, "unknown-command"),
        (r#"{"command": "resize", "bytes": "8M"}"#, "bad-arguments"),
        (r#"{"command": "resize", "bytes": 1000}"#, "failed"),
        (r#"{"command": "status", "version": 2}"#, "bad-version"),
        (r#"{"command": "status", "x": 1}"#, "bad-arguments"),
        (r#"{"command": "stats", "format": "xml"}"#, "bad-arguments"),
        (r#"{"command": "latency"}"#, "bad-arguments"),
        (r#"{"command": "trace", "action": "on"}"#, "bad-arguments"),
        (r#"{"command": "trace", "action": "on", "file": "relative"}"#, "bad-arguments"),
        (r#"{"command": "trace", "action": "on", "file": "/nonexistent/trace"}"#, "failed"),
        (r#"{"command": "trace", "action": "off", "file": "/x"}"#, "bad-arguments"),
        (r#"{"command": "trace", "action": "off"}"#, "no-trace"),
        (r#"{"command": "trace", "action": "dump"}"#, "no-trace"),
    ] {
        assert_eq!(setup.error(request), code, "{request}");
    }
    // As deep as the parser goes, and deeper. The server's thread has a small stack.
    for (depth, code) in [(120, "bad-arguments"), (10_000, "bad-request")] {
        let nested = "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(setup.error(&format!(r#"{{"command": "status", "x": {nested}}}"#)), code);
    }
    // After an error the connection continues. The reply has the request's id.
    let mut client = setup.client();
    client.ask("nonsense");
    let reply = client.ask(r#"{"command": "status", "id": [1, "a"]}"#);
    assert_eq!((&reply["ok"], &reply["id"]), (&json!(true), &json!([1, "a"])));
    assert_eq!(client.ask(r#"{"command": "nothing", "id": 5}"#)["id"], 5);
}

#[test]
fn lines_may_come_in_pieces_or_together() {
    let setup = Setup::new();
    let mut client = setup.client();
    for piece in ["{\"comm", "and\":", "\"latency\",\"on\":true}", "\n"] {
        client.send(piece);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.read()["result"]["on"], true);
    client.send(&"\n {\"command\":\"stats\"}\r\n".repeat(50));
    (0..50).for_each(|_| assert_eq!(client.read()["result"]["latency"]["on"], true));
}

/// A silent client keeps its place for only a few seconds if others want it.
#[test]
fn silent_clients_give_way() {
    let setup = Setup::new();
    let mut asking: Vec<_> = (1..MAX_CLIENTS).map(|_| setup.client()).collect();
    asking.iter_mut().for_each(|client| drop(client.ask(r#"{"command":"status"}"#)));
    let mut silent = setup.client();
    assert_eq!(setup.client().read()["error"]["code"], "busy");
    std::thread::sleep(Duration::from_millis(5500));
    let mut other = setup.client();
    assert_eq!(other.ask(r#"{"command":"status"}"#)["ok"], true);
    assert!(silent.at_end());
    asking.iter_mut().for_each(|client| assert_eq!(client.ask(r#"{"command":"status"}"#)["ok"], true));
    assert_eq!(setup.client().read()["error"]["code"], "busy", "active clients keep their places");
}

#[test]
fn clients_are_bounded() {
    let setup = Setup::new();
    // A line without end.
    let mut client = setup.client();
    client.send(&"x".repeat(MAX_LINE));
    assert_eq!(client.read()["error"]["code"], "too-long");
    assert!(client.at_end());
    // Too many.
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| setup.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.ask(r#"{"command":"status"}"#)));
    let mut other = setup.client();
    assert_eq!(other.read()["error"]["code"], "busy");
    assert!(other.at_end());
    // A client that sends and never reads delays nothing, and the device closes its connection.
    let mut deaf = clients.pop().expect("client");
    deaf.0.get_ref().set_nonblocking(true).expect("socket");
    let line = "{\"command\":\"keyslots\",\"all\":true}\n".repeat(100);
    while deaf.0.get_mut().write(line.as_bytes()).is_ok() {}
    assert_eq!(clients[0].ask(r#"{"command":"status"}"#)["ok"], true);
    drop(deaf);
    // Clients that disconnect make room, as soon as the device has noticed.
    clients.clear();
    wait_for(|| setup.client().ask(r#"{"command":"status"}"#)["ok"] == true);
}

#[test]
fn the_socket_is_private_and_goes_with_the_device() {
    let mut setup = Setup::new();
    let path = setup.path("control");
    let mode = std::fs::metadata(&path).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = |path: &std::path::Path| {
        let device = Arc::clone(&setup.guest.device);
        let started = Listener::at_path(path).and_then(|listener| ControlServer::start(listener, device, Value::Null));
        started.map(drop).map_err(|error| error.to_string())
    };
    assert!(again(&path).is_err_and(|error| error.contains("another program listens")));
    assert!(setup.ask(json!({"command": "status"})).is_object(), "still there");
    std::fs::write(setup.path("file"), "precious").expect("file");
    assert!(again(&setup.path("file")).is_err_and(|error| error.contains("is not a socket")));
    let mut client = setup.client();
    client.ask("{}");
    drop(setup.server.take());
    assert!(!path.exists() && client.at_end());
    // A stale socket is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("socket"));
    assert!(path.exists());
    assert_eq!(again(&path), Ok(()));
}

#[test]
fn the_documentation_has_every_command() {
    let text = include_str!("../docs/control.md");
    for (name, _) in COMMANDS {
        assert!(text.contains(&format!("### `{name}`")), "docs/control.md does not describe {name}");
    }
    let setup = Setup::new();
    // Its examples work.
    let examples: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("-> ")).collect();
    assert!(examples.len() >= COMMANDS.len());
    for example in examples {
        let example = example.replace("/tmp/", &format!("{}/", setup.directory.path().display()));
        let reply = setup.client().ask(&example);
        assert!(reply["ok"] == true || example.contains("no-such-command"), "{example}: {reply}");
    }
}

#[test]
fn the_client_speaks_to_people_and_programs() {
    let mut setup = Setup::new();
    setup.program(2, 1);
    setup.guest.request(0, &crypto_write(8, 2, [1, 0, 0, 0], &pattern(1, 8192)), 1).assert_only_status(OK);
    let json = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
    let status = setup.ctl_ok(&["status"]);
    for words in
        ["engine keyslots in use      1\n", "request queues              0 1\n", "connected                   true\n"]
    {
        assert!(status.contains(words), "{words:?} is missing in: {status}");
    }
    assert_eq!(json(setup.ctl_ok(&["--json", "status"]))["engine"]["keyslots"], 4);
    let stats = setup.ctl_ok(&["stats"]);
    assert!(stats.contains("keyslots     hits 1, program 1"), "{stats}");
    assert!(stats.contains("0 crypto_out"), "{stats}");
    assert!(
        setup
            .ctl_ok(&["stats", "--format", "prometheus"])
            .contains("# TYPE vhost_user_blk_crypto_keyslots_hits_total counter\n")
    );
    assert_eq!(json(setup.ctl_ok(&["stats", "--format", "json"]))["keyslots"]["hits"], 1);
    assert_eq!(
        setup.ctl_ok(&["keyslots"]),
        "slot  generation         mode  data unit  DUN bytes  hits  programs  evictions\n\
         2              1  AES-256-XTS       4096          8     1         1          0\n"
    );
    assert_eq!(setup.ctl_ok(&["keyslots", "--all"]).lines().count(), 5);
    assert_eq!(setup.ctl_ok(&["latency", "on"]), "latencies are recorded\n");
    setup.guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    assert!(setup.ctl_ok(&["stats"]).contains("latency in us  count"));
    // Without a terminal, it prints once and without escape sequences.
    for words in [&["top", "--interval", "0.1"][..], &["top", "--once", "--interval", "0.1"]] {
        let top = setup.ctl_ok(words);
        assert!(top.contains("queue  requests/s") && top.contains("keyslot  hits/s") && !top.contains('\x1b'), "{top}");
    }
    assert_eq!(setup.ctl_ok(&["reset-engine"]), "1 keys are lost\n");
    assert_eq!(setup.ctl_ok(&["keyslots"]), "no keyslot holds a key\n");
    let (code, _, err) = setup.ctl(&["trace", "off"]);
    assert!(code == Some(2) && err.contains("no trace is being written"), "{err}");
    drop(setup.server.take());
    let (code, _, err) = setup.ctl(&["status"]);
    assert!(code == Some(2) && err.contains("no device answers at"), "{err}");
}

#[test]
fn sizes_in_words_and_numbers() {
    let mut setup = Setup::new();
    let result = json!({"bytes": 8 << 20, "before": 8 << 20, "frontend": "unchanged"});
    assert_eq!(setup.ask(json!({"command": "resize"})), result);
    let out = setup.ctl_ok(&["resize", "9M"]);
    assert!(out.starts_with("9437184 bytes, before 8388608; the frontend was not told: it has opened no"), "{out}");
    assert_eq!(setup.ctl_ok(&["resize"]), "9437184 bytes, as before\n");
    assert_eq!(setup.ask(json!({"command": "status"}))["image"]["bytes"], 9 << 20);
    let (code, _, err) = setup.ctl(&["resize", "8M"]);
    assert!(code != Some(0) && err.contains("while a frontend is connected"), "{err}");
    setup.guest.disconnect();
    assert_eq!(setup.ctl_ok(&["resize", "0xa00000"]), "10485760 bytes, before 9437184; no frontend is connected\n");
    let image = std::fs::File::options().write(true).open(setup.guest.image_path()).expect("image");
    image.set_len(4 << 20).expect("size");
    let result = json!({"bytes": 4 << 20, "before": 10 << 20, "frontend": "not-connected"});
    assert_eq!(setup.ask(json!({"command": "resize", "bytes": null})), result);
    assert_ne!(setup.ctl(&["resize", "0"]).0, Some(0));
}

#[test]
fn faults_come_and_go() {
    let mut setup = Setup::new();
    let flush = |setup: &mut Setup| setup.guest.request(0, &header(FLUSH, 0), 1).status;
    assert_eq!(setup.ask(json!({"command": "fault", "action": "list"})), json!({ "faults": [] }));
    let spec = "io-error,op=flush,count=1";
    assert_eq!(setup.ask(json!({"command": "fault", "action": "add", "spec": spec})), json!({ "fault": 1 }));
    assert_eq!([flush(&mut setup), flush(&mut setup)], [IOERR, OK]);
    let expected = json!({ "faults": [{ "id": 1, "spec": spec, "matched": 2, "struck": 1 }] });
    assert_eq!(setup.ask(json!({"command": "fault", "action": "list"})), expected);
    assert_eq!(setup.ctl_ok(&["fault", "add", "io-error"]), "fault 2\n");
    assert_eq!(flush(&mut setup), IOERR);
    let list = setup.ctl_ok(&["fault", "list"]);
    assert!(list.contains("\n1 io-error,op=flush,count=1 ") && list.lines().count() == 3, "{list}");
    assert_eq!(setup.ctl_ok(&["fault", "clear", "2"]), "1 faults are cleared\n");
    assert_eq!(flush(&mut setup), OK);
    assert_eq!(setup.ask(json!({"command": "fault", "action": "clear"})), json!({ "cleared": 1 }));
    assert_eq!(setup.ctl_ok(&["fault", "list"]), "there are no faults\n");

    for arguments in [
        r#""action":"add""#,
        r#""action":"add","spec":"oops""#,
        r#""action":"add","spec":"stuck","fault":1"#,
        r#""action":"list","fault":1"#,
        r#""action":"clear","fault":7"#,
        r#""action":"clear","spec":"stuck""#,
        r#""action":"heal""#,
    ] {
        let code = setup.error(&format!("{{\"command\":\"fault\",{arguments}}}"));
        assert_eq!(code, "bad-arguments", "{arguments}");
    }
    let (code, _, err) = setup.ctl(&["fault", "add", "delay=5"]);
    assert!(code != Some(0) && err.contains("5ms"), "{err}");
    assert_eq!(setup.guest.stat("events.fault"), 2);
}
