// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From the workers' rings to the file.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::format::{Words, header, is_request, lost, to_bytes, worker_entry};
use super::{MAGIC, TraceStatus};
use crate::lock::lock;
use crate::observe::Observer;
use crate::observe::worker_stats::WorkerCounters;
use crate::threads;

/// How often the rings are drained.
const INTERVAL: Duration = Duration::from_millis(5);

/// The trace of a device, if there is one.
#[derive(Debug, Default)]
pub struct Tracer {
    trace: Mutex<Option<ActiveTrace>>,
    /// Set when no more files can be opened: the one that stays open, if any.
    only: OnceLock<Option<(PathBuf, File)>>,
}

#[derive(Debug)]
struct ActiveTrace {
    sink: Arc<Sink>,
    thread: thread::JoinHandle<()>,
}

#[derive(Debug)]
struct Sink {
    stop: AtomicBool,
    path: PathBuf,
    /// Held while the rings are drained, so that there is one reader at a time.
    state: Mutex<WriterState>,
}

#[derive(Debug)]
struct WriterState {
    output: Output,
    /// Requests in the file.
    records: u64,
    dropped: u64,
    /// What each worker had dropped when the file was last told.
    told: Vec<u64>,
}

/// The file, written in pieces that fit in the CPU's caches.
#[derive(Debug)]
struct Output {
    file: File,
    buffer: Vec<u8>,
    error: Option<io::Error>,
}

/// Bytes of a piece.
const PIECE: usize = 64 << 10;

impl Tracer {
    /// Allows no other file from now on.
    pub fn only(&self, path: Option<&Path>) -> io::Result<()> {
        let open = |path: &Path| {
            let mut file = open(path)?;
            check(&mut file)?;
            Ok::<_, io::Error>((path.to_owned(), file))
        };
        let file = path.map(open).transpose()?;
        self.only.set(file).map_err(|_| io::Error::other("the file of traces is chosen already"))
    }

    /// Opens the file for a trace, if one is possible. A trace that runs goes on.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        let how = "the sandbox lets the device open no file; ";
        let error = match self.only.get() {
            None => {
                let mut file = open(path)?;
                check(&mut file)?;
                return Ok(file);
            }
            Some(None) => format!("{how}name it with --trace when you start the device, or use --sandbox none"),
            Some(Some((only, file))) if only == path => match file.metadata()?.nlink() {
                0 => format!("the file was removed, and {how}start it again, or use --sandbox none"),
                // The trace that runs may write to it, at the same position: it is checked later.
                _ => return file.try_clone(),
            },
            Some(Some((only, _))) => {
                format!("{how}write to {}, which was named with --trace, or use --sandbox none", only.display())
            }
        };
        Err(io::Error::other(error))
    }

    /// Starts a trace into a file from [`open`](Self::open), and ends the previous one. The workers must have been told
    /// of its end before.
    pub fn start(&self, observer: &Arc<Observer>, path: &Path, mut file: File) -> io::Result<()> {
        self.stop(observer);
        if check(&mut file)? {
            file.set_len(0)?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64); // until 2554
        file.write_all(&header(now))?;
        // Discards what an earlier trace has left behind.
        let workers = observer.workers();
        for ring in workers.iter().filter_map(|worker| worker.ring.get()) {
            ring.drain(|_| ());
        }
        let told = workers.iter().map(|worker| dropped(worker)).collect();
        let output = Output { file, buffer: Vec::with_capacity(PIECE), error: None };
        let state = WriterState { output, records: 0, dropped: 0, told };
        let sink = Arc::new(Sink { stop: AtomicBool::new(false), path: path.to_owned(), state: Mutex::new(state) });
        let thread = threads::named("trace").spawn({
            let (sink, observer) = (Arc::clone(&sink), Arc::downgrade(observer));
            move || sink.run(&observer)
        })?;
        *lock(&self.trace) = Some(ActiveTrace { sink, thread });
        Ok(())
    }

    /// Ends the trace. The workers must have been told before.
    pub fn stop(&self, observer: &Observer) -> Option<TraceStatus> {
        let ActiveTrace { sink, thread } = lock(&self.trace).take()?;
        sink.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        if thread.join().is_err() {
            log::error!("the trace's thread has panicked; please report this");
        }
        sink.drain(observer);
        Some(sink.status())
    }

    /// Drains the rings now.
    pub fn sync(&self, observer: &Observer) -> Option<TraceStatus> {
        let sink = lock(&self.trace).as_ref().map(|trace| Arc::clone(&trace.sink))?;
        sink.drain(observer);
        Some(sink.status())
    }

    /// Its state.
    pub fn status(&self) -> Option<TraceStatus> {
        lock(&self.trace).as_ref().map(|trace| trace.sink.status())
    }
}

impl Sink {
    fn run(&self, observer: &Weak<Observer>) {
        while !self.stop.load(Ordering::Acquire) {
            thread::park_timeout(INTERVAL);
            let Some(observer) = observer.upgrade() else { return };
            self.drain(&observer);
        }
    }

    fn status(&self) -> TraceStatus {
        let state = lock(&self.state);
        let WriterState { records, dropped, output, .. } = &*state;
        let error = output.error.as_ref().map(io::Error::to_string);
        TraceStatus { file: self.path.clone(), records: *records, dropped: *dropped, error }
    }

    /// Drains the rings into the file.
    fn drain(&self, observer: &Observer) {
        let mut state = lock(&self.state);
        let worked = state.output.error.is_none();
        for (number, worker) in observer.workers().iter().enumerate() {
            state.drain(number, worker);
        }
        state.output.write();
        if let Some(error) = state.output.error.as_ref().filter(|_| worked) {
            log::warn!("the trace to {} ends: {error}", self.path.display());
        }
    }
}

impl WriterState {
    fn drain(&mut self, number: usize, worker: &WorkerCounters) {
        let Some(ring) = worker.ring.get() else { return };
        if self.told.len() <= number {
            self.told.resize(number + 1, 0);
        }
        let Self { output, records, dropped: all_dropped, told } = self;
        let mut named = false;
        let mut name = |output: &mut Output| {
            if !std::mem::replace(&mut named, true) {
                output.add(&worker_entry(worker.number));
            }
        };
        ring.drain(|record| {
            name(output);
            output.add(record);
            *records += u64::from(is_request(record));
        });
        let dropped = dropped(worker);
        if let Some(told) = told.get_mut(number)
            && *told != dropped
        {
            let count = dropped.wrapping_sub(*told);
            *told = dropped;
            *all_dropped += count;
            name(output);
            output.add(&lost(count));
        }
    }
}

impl Output {
    fn add(&mut self, record: &Words) {
        self.buffer.extend_from_slice(&to_bytes(record));
        if self.buffer.len() >= PIECE {
            self.write();
        }
    }

    /// Writes nothing after the first error.
    fn write(&mut self) {
        if self.error.is_none() {
            self.error = self.file.write_all(&self.buffer).err();
        }
        self.buffer.clear();
    }
}

fn dropped(worker: &WorkerCounters) -> u64 {
    worker.ring.get().map_or(0, super::TraceRing::dropped)
}

/// Opens a file, or creates it for this user only. Does not wait for the other end of a pipe.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).to_owned();
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// Makes sure that a file is empty or an old trace, and rewinds it. Returns false for anything but a regular file, such
/// as a pipe, whose writes must not wait for room.
fn check(file: &mut File) -> io::Result<bool> {
    let kind = file.metadata()?.file_type();
    if kind.is_block_device() {
        return Err(io::Error::other("it is a block device; name a file"));
    }
    if !kind.is_file() {
        return Ok(false);
    }
    file.rewind()?;
    let mut start = Vec::new();
    Read::take(&mut *file, MAGIC.len() as u64).read_to_end(&mut start)?;
    if !start.is_empty() && start != MAGIC {
        return Err(io::Error::other("the file exists and is not a trace; name another one"));
    }
    file.rewind()?;
    Ok(true)
}
