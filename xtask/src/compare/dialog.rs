// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The dialog with the guest: a command, marks while its load runs, an answer. `guest-tests/compare/run.sh` is the
//! other end.

use anyhow::{Context, Result, bail, ensure};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a wait checks that the guest is still running.
const TICK: Duration = Duration::from_millis(200);
/// The longest answer.
const LIMIT: usize = 16 << 20;

/// A load is about to begin, or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// `mark begin`
    Begin,
    /// `mark end`
    End,
}

/// The host's end.
pub struct Dialog<S = UnixStream> {
    stream: S,
    bytes: Vec<u8>,
}

impl Dialog {
    /// Waits for QEMU to connect and for the guest to say that it is ready. `alive` fails if it never will be.
    pub fn accept(listener: &UnixListener, limit: Duration, mut alive: impl FnMut() -> Result<()>) -> Result<Self> {
        let end = Instant::now() + limit;
        listener.set_nonblocking(true)?;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e).context("the guest's port"),
            }
            alive()?;
            ensure!(Instant::now() < end, "QEMU did not connect within {} s", limit.as_secs());
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(TICK))?;
        let mut dialog = Self { stream, bytes: vec![] };
        let line = dialog.line(end, &mut alive)?;
        ensure!(line == "ready", "the guest began with {line:?}");
        Ok(dialog)
    }

    /// Listens where QEMU is to connect.
    pub fn listen(path: &Path) -> Result<UnixListener> {
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))
    }
}

impl<S: Read + Write> Dialog<S> {
    /// Runs a command in the guest and returns its output, or its last lines as an error. Calls `marked` at each mark
    /// with the CPU time that the guest has used, in hundredths of a second. The guest waits meanwhile.
    pub fn ask(
        &mut self,
        command: &str,
        limit: Duration,
        mut alive: impl FnMut() -> Result<()>,
        mut marked: impl FnMut(Mark, u64) -> Result<()>,
    ) -> Result<String> {
        let end = Instant::now() + limit;
        self.stream.write_all(format!("{command}\n").as_bytes()).context("cannot write to the guest's port")?;
        loop {
            let line = self.line(end, &mut alive)?;
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |text: &str| text.parse::<u64>().with_context(|| format!("the guest said {line:?}"));
            match words.as_slice() {
                ["mark", when, ticks] => {
                    let mark = if *when == "begin" { Mark::Begin } else { Mark::End };
                    marked(mark, number(ticks)?)?;
                    self.stream.write_all(b"go\n")?;
                }
                ["reply", status, size] => {
                    let size = usize::try_from(number(size)?)?;
                    let text = self.take(size, end, &mut alive)?;
                    ensure!(*status == "0", "{}", last_words(&text));
                    return Ok(text);
                }
                _ => bail!("the guest said {line:?}"),
            }
        }
    }

    /// Tells the guest that no more commands follow.
    pub fn end(&mut self) -> Result<()> {
        self.stream.write_all(b"end\n").context("cannot write to the guest's port")
    }

    fn line(&mut self, end: Instant, alive: &mut impl FnMut() -> Result<()>) -> Result<String> {
        loop {
            if let Some(at) = self.bytes.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=at).collect();
                return Ok(String::from_utf8_lossy(&line).trim().to_owned());
            }
            self.more(end, alive)?;
        }
    }

    fn take(&mut self, size: usize, end: Instant, alive: &mut impl FnMut() -> Result<()>) -> Result<String> {
        ensure!(size <= LIMIT, "the guest announced an answer of {size} bytes");
        while self.bytes.len() < size {
            self.more(end, alive)?;
        }
        let text: Vec<u8> = self.bytes.drain(..size).collect();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn more(&mut self, end: Instant, alive: &mut impl FnMut() -> Result<()>) -> Result<()> {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => {
                // QEMU exits a moment after it closes the port, and its exit status says more.
                std::thread::sleep(5 * TICK);
                alive()?;
                bail!("the guest closed the port")
            }
            Ok(n) => self.bytes.extend(piece.iter().take(n)),
            Err(e) if [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted].contains(&e.kind()) => {
                alive()?;
                ensure!(Instant::now() < end, "the guest did not answer in time");
            }
            Err(e) => return Err(e).context("the guest's port"),
        }
        ensure!(self.bytes.len() <= 2 * LIMIT, "the guest sends more than an answer can have");
        Ok(())
    }
}

/// The last few lines that a failed command printed, without fio's JSON.
fn last_words(text: &str) -> String {
    let telling = |line: &&str| !line.is_empty() && !line.contains(": Saving output of ");
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(telling).collect();
    let json = lines.iter().position(|l| *l == "{").zip(lines.iter().rposition(|l| *l == "}"));
    let outside = |at: usize| json.is_none_or(|(first, last)| at < first || at > last);
    let lines: Vec<&str> = (0..lines.len()).filter(|at| outside(*at)).map(|at| lines[at].trim()).collect();
    match lines.len() {
        0 => "it failed without a message".to_owned(),
        n => lines[n.saturating_sub(3)..].join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// What the guest sends, in pieces, and what it receives.
    struct Guest(Vec<&'static [u8]>, Vec<u8>);

    impl Read for Guest {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    impl Write for Guest {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn ask(says: &[&'static [u8]]) -> (Result<String>, Vec<(Mark, u64)>, String) {
        let mut dialog = Dialog { stream: Guest(says.to_vec(), vec![]), bytes: vec![] };
        let mut marks = vec![];
        let marked = |mark, ticks| {
            marks.push((mark, ticks));
            Ok(())
        };
        let answer = dialog.ask("load x", LIMIT, || Ok(()), marked);
        (answer, marks, String::from_utf8(dialog.stream.1).unwrap())
    }

    #[test]
    fn a_load_with_marks() {
        let (answer, marks, told) = ask(&[b"mark be", b"gin 100\nmark end 250\nrep", b"ly 0 5\nab", b"c\nd"]);
        assert_eq!(answer.unwrap(), "abc\nd");
        assert_eq!(marks, [(Mark::Begin, 100), (Mark::End, 250)]);
        assert_eq!(told, "load x\ngo\ngo\n");
    }

    #[test]
    fn the_reason_is_not_the_end_of_json() {
        let fio =
            "fio: io_u error on file /mnt/x/d/data: Input/output error\n{\n  \"jobs\" : [\n    {\n    }\n  ]\n}\n";
        assert_eq!(last_words(fio), "fio: io_u error on file /mnt/x/d/data: Input/output error");
        let kernel =
            "the guest's kernel: BTRFS error (device vdb): missing or error searching encryption context item\n";
        assert!(last_words(&format!("{fio}{kernel}")).ends_with("encryption context item"));
        assert_eq!(last_words("{\n}\n"), "it failed without a message");
    }

    #[test]
    fn what_goes_wrong() {
        let (answer, ..) = ask(&[b"reply 1 14\nFAIL: no disk\n"]);
        assert_eq!(answer.unwrap_err().to_string(), "FAIL: no disk");
        for bad in [&[b"reply 0 9\nabc" as &[u8]] as &[&'static [u8]], &[b"hello\n"], &[b"reply 0 99999999999\n"], &[]]
        {
            assert!(ask(bad).0.is_err());
        }
    }
}
