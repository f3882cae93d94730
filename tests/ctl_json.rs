// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The JSON of `ctl`, from the program itself, beside the tables of `docs/ctl-json.md`; and `ctl top` of several devices.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use common::process::{Files, Running, output, program, wait_for};
use common::*;
use serde_json::{Value, json};
use vhost_user_blk_crypto::control::{ControlServer, Listener};

const PAGE: &str = include_str!("../docs/ctl-json.md");

/// The table below a heading: types by path.
fn table(heading: &str) -> BTreeMap<&'static str, Vec<&'static str>> {
    let (_, section) = PAGE.split_once(&format!("## `{heading}`\n")).expect(heading);
    let section = section.split("\n## ").next().expect("section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (path, rest) = row.split_once("` | ").expect("a path");
        (path, rest.split(" | ").next().expect("a type").split(" or ").collect())
    })
    .collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// Checks all fields of a value, and notes which of the table's it has.
fn compare(
    table: &BTreeMap<&'static str, Vec<&'static str>>,
    path: &str,
    value: &Value,
    seen: &mut BTreeMap<&'static str, usize>,
) {
    if let Some((path, types)) = table.get_key_value(path) {
        assert!(types.contains(&kind(value)), "{path}: {value} is not {types:?}");
        *seen.entry(path).or_default() += 1;
        return;
    }
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            compare(table, &path, value, seen);
        }),
        Value::Array(elements) => elements.iter().for_each(|one| compare(table, &format!("{path}[]"), one, seen)),
        _ => panic!("{path} is in no table"),
    }
}

/// All fields of these values are in the table. Each field of the table is there, in one of them at least.
fn check(heading: &str, values: &[Value]) {
    let (table, mut seen) = (table(heading), BTreeMap::new());
    assert!(!table.is_empty(), "{heading}");
    values.iter().for_each(|value| compare(&table, "", value, &mut seen));
    for path in table.keys() {
        assert!(seen.contains_key(path), "{heading}: nothing has {path}");
    }
}

fn ctl(controls: &[&Path], words: &[&str]) -> Output {
    let mut command = program();
    command.arg("ctl").args(words);
    for control in controls {
        command.arg("--control").arg(control);
    }
    command.output().expect("program")
}

fn json_of(control: &Path, words: &[&str]) -> Value {
    let output = ctl(&[control], &[&["--json"], words].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// A device in this process with a key in slot 2 and some requests.
fn serve(control: &Path) -> (Guest, ControlServer) {
    let mut guest = Guest::new();
    let queue = guest.control();
    guest.request(queue, &Program::new(2, &key(1), 12).bytes(), 1).assert_only_status(OK);
    guest.request(0, &crypto_write(8, 2, [1, 0, 0, 0], &pattern(1, 8192)), 1).assert_only_status(OK);
    let listener = Listener::at_path(control).expect("control socket");
    let server = ControlServer::start(listener, Arc::clone(&guest.device), json!({})).expect("control socket");
    (guest, server)
}

#[test]
fn all_fields_are_documented() {
    let files = Files::new();
    let control = files.path("control");
    let (mut guest, _server) = serve(&control);
    let ask = |words: &[&str]| json_of(&control, words);
    let file = files.path("trace");
    let file = file.to_str().expect("UTF-8");
    check("latency", &[ask(&["latency", "on"])]);
    let traces = [ask(&["trace", "on", file]), ask(&["status"])["trace"].clone()];
    guest.request(0, &header(FLUSH, 0), 1).assert_only_status(OK);
    let dump = ctl(&[&control], &["--json", "trace", "dump"]);
    let lines = String::from_utf8(dump.stdout).expect("text");
    assert!(!lines.is_empty());
    lines.lines().for_each(|line| assert!(serde_json::from_str::<Value>(line).expect("JSON").is_object()));
    check("trace", &[&traces[..], &[ask(&["trace", "off"])]].concat());
    check("keyslots", &[ask(&["keyslots"]), ask(&["keyslots", "--all"])]);
    let fault = ask(&["fault", "add", "io-error,op=flush"]);
    check("fault", &[fault, ask(&["fault", "list"]), ask(&["fault", "clear"])]);
    check("resize", &[ask(&["resize"]), ask(&["resize", "9M"])]);
    check("top", &[ask(&["top", "--interval", "0.1"])]);
    assert_eq!(ask(&["stats"]), ask(&["stats", "--format", "json"]));
    assert!(ask(&["stats", "--format", "prometheus"])["text"].as_str().is_some_and(|text| text.contains("# TYPE")));
    let connected = ask(&["status"]);
    check("reset-engine", &[ask(&["reset-engine"])]);

    // The program's own part of the status.
    let other = Files::new();
    let control = other.path("control");
    let _running = Running::start(&other, &["--control", control.to_str().expect("UTF-8")]);
    wait_for(|| ctl(&[&control], &["status"]).status.success());
    let ufs = Files::new();
    let ufs_control = ufs.path("control");
    let _ufs = Running::start(&ufs, &["--ufs", "--control", ufs_control.to_str().expect("UTF-8")]);
    wait_for(|| ctl(&[&ufs_control], &["status"]).status.success());
    check("status", &[connected, json_of(&control, &["status"]), json_of(&ufs_control, &["status"])]);

    // An error leaves nothing for a parser.
    let refused = ctl(&[&control], &["--json", "trace", "off"]);
    assert!(refused.status.code() == Some(2) && refused.stdout.is_empty() && !refused.stderr.is_empty());
}

#[test]
fn every_command_has_a_section() {
    for (name, _) in vhost_user_blk_crypto::control::COMMANDS {
        assert!(PAGE.contains(&format!("## `{name}`\n")), "docs/ctl-json.md has no {name}");
    }
}

#[test]
fn each_device_has_a_text_file() {
    let (sockets, out) = (Files::new(), Files::new());
    let (first, server) = serve(&sockets.path("a.control"));
    let (_other, _server) = serve(&sockets.path("b.control"));
    std::fs::write(out.path("other.prom"), "").expect("file");
    let programs = Path::new(env!("CARGO_BIN_EXE_vhost-user-blk-crypto")).parent().expect("directory");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let write = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/grafana/textfiles.sh");
        let mut command = std::process::Command::new(script);
        command.args([sockets.directory.path(), out.directory.path()]).env("PATH", &path);
        let output = command.output().expect("script");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let file = |name: &str| std::fs::read_to_string(out.path(&format!("vhost-user-blk-crypto-{name}.prom")));
    write();
    for name in ["a", "b"] {
        let text = file(name).expect("text file");
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let label = format!("{{disk=\"{name}\"");
        assert!(samples.len() > 20 && samples.iter().all(|line| line.contains(&label)), "{text}");
        assert!(text.contains(&format!("keyslots_program_total{label}}} 1\n")), "{text}");
        assert!(text.contains(&format!("queue_bytes_total{label},queue=\"0\",type=\"crypto_out\"}} 8192\n")), "{text}");
    }
    drop((server, first));
    write();
    assert!(file("a").is_err() && file("b").is_ok() && out.path("other.prom").exists());
}

#[test]
fn top_shows_several_devices() {
    let files = Files::new();
    let [first, second, neither] = ["a.control", "b.control", "c.sock"].map(|name| files.path(name));
    let (mut guest, server) = serve(&first);
    let (_other, _server) = serve(&second);
    // A look would be a connection: whoever listens there could not know that it is only one.
    let listener = UnixListener::bind(&neither).expect("socket");
    listener.set_nonblocking(true).expect("socket");
    std::fs::write(files.path("d.control"), "no socket").expect("file");

    let writer = std::thread::spawn(move || {
        let until = std::time::Instant::now() + std::time::Duration::from_millis(1500);
        while std::time::Instant::now() < until {
            guest.request(0, &crypto_write(8, 2, [1, 0, 0, 0], &pattern(1, 8192)), 1).assert_only_status(OK);
        }
        guest
    });
    let names = |top: &Value| {
        let devices = top["devices"].as_array().expect("devices").iter();
        devices.map(|device| device["control"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    let both = [&first, &second].map(|path| path.to_str().expect("UTF-8").to_owned());
    let top = json_of(files.directory.path(), &["top", "--interval", "0.5"]);
    assert_eq!(names(&top), both);
    let written = |device: usize| top["devices"][device]["rates"]["bytes"]["crypto_out"].as_f64().expect("number");
    assert!(written(0) >= 8192.0, "{top}");
    assert_eq!(written(1), 0.0);
    let mut guest = writer.join().expect("writer");

    let text = |controls: &[&Path]| {
        let output = ctl(controls, &["top", "--interval", "0.1"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let shown = text(&[&first, &second]);
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines.len() == 3 && lines[0].contains("requests/s"), "{shown}");
    assert!(lines[1].starts_with(&both[0]) && lines[2].starts_with(&both[1]), "{shown}");
    assert!(text(&[&first]).contains("keyslot  hits/s"), "one device in detail");

    // One that has gone is left out, unless it is the only one.
    drop(server);
    guest.disconnect();
    assert_eq!(text(&[&first, &second]).lines().count(), 2);
    assert_eq!(ctl(&[&first], &["top", "--once"]).status.code(), Some(2));
    assert_eq!(ctl(&[&first, &second], &["status"]).status.code(), Some(2));
    assert!(listener.accept().is_err(), "nobody has connected");
}

/// A device that goes between two requests is an error, not the end of the output.
#[test]
fn a_device_that_goes_is_an_error() {
    let files = Files::new();
    let listener = UnixListener::bind(files.path("control")).expect("socket");
    let device = std::thread::spawn(move || {
        let mut client = BufReader::new(listener.accept().expect("client").0);
        for _ in 0..2 {
            client.read_line(&mut String::new()).expect("a request");
            client.get_mut().write_all(b"{\"ok\":true,\"result\":{}}\n").expect("reply");
        }
    });
    let mut ctl = program();
    let (code, text) = output(ctl.args(["ctl", "--control"]).arg(files.path("control")).args(["--json", "top"]));
    device.join().expect("device");
    assert!(code == Some(2) && text.contains("the device has closed the connection"), "{code:?}: {text}");
}
