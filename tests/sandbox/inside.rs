// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A process in the sandbox tries what it must not be able to do, and what it must.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use libtest_mimic::Trial;
use vhost_user_blk_crypto::sandbox::Sandbox;

/// The environment variable that makes this program a process in the sandbox.
pub const ACTION: &str = "SANDBOX_TEST_ACTION";
const DIRECTORY: &str = "SANDBOX_TEST_DIRECTORY";

/// The result of an action, if it returned.
type Result = io::Result<()>;

/// How an action ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// As it would outside.
    Works,
    /// With this error number.
    Fails(i32),
    /// The kernel kills the process.
    Killed,
}

struct Action {
    name: &'static str,
    sandbox: fn(&Path) -> Sandbox,
    action: fn(&Path) -> Result,
    end: End,
}

fn nothing(_: &Path) -> Sandbox {
    Sandbox::new()
}

fn files(directory: &Path) -> Sandbox {
    Sandbox::new()
        .read_file(directory.join("read"))
        .write_file(directory.join("write"))
        .remove_file(&directory.join("directory/x"))
}

/// Makes a system call that the standard library does not have.
fn call(result: libc::c_long) -> Result {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn read(path: impl AsRef<Path>) -> Result {
    std::fs::File::open(path).map(drop)
}

fn write(path: impl AsRef<Path>) -> Result {
    std::fs::File::options().write(true).open(path).map(drop)
}

fn map(protection: i32) -> Result {
    // SAFETY: a new anonymous mapping, which nothing uses.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    call(if at == libc::MAP_FAILED { -1 } else { 0 })
}

fn raw(number: libc::c_long, arguments: [libc::c_long; 3]) -> Result {
    let [a, b, c] = arguments;
    // SAFETY: used only with calls whose arguments are numbers, or that fail on a null pointer.
    call(unsafe { libc::syscall(number, a, b, c, 0, 0) })
}

const ACTIONS: &[Action] = &[
    // Files.
    Action { name: "open", sandbox: nothing, action: |_| read("/etc/passwd"), end: End::Fails(libc::EACCES) },
    Action { name: "open_below", sandbox: nothing, action: |at| read(at.join("read")), end: End::Fails(libc::EACCES) },
    Action { name: "open_other", sandbox: files, action: |_| read("/etc/passwd"), end: End::Fails(libc::EACCES) },
    Action { name: "open_named", sandbox: files, action: |at| read(at.join("read")), end: End::Works },
    // As musl opens files. There is no path at address 0, but only the call matters.
    #[cfg(target_arch = "x86_64")]
    Action {
        name: "old_open",
        sandbox: nothing,
        action: |_| raw(libc::SYS_open, [0; 3]),
        end: End::Fails(libc::EACCES),
    },
    #[cfg(target_arch = "x86_64")]
    Action {
        name: "old_open_named",
        sandbox: files,
        action: |_| raw(libc::SYS_open, [0; 3]),
        end: End::Fails(libc::EFAULT),
    },
    Action {
        name: "write_read_only",
        sandbox: files,
        action: |at| write(at.join("read")),
        end: End::Fails(libc::EACCES),
    },
    Action { name: "write_named", sandbox: files, action: |at| write(at.join("write")), end: End::Works },
    Action {
        name: "remove",
        sandbox: nothing,
        action: |at| std::fs::remove_file(at.join("directory/x")),
        end: End::Killed,
    },
    Action {
        name: "remove_named",
        sandbox: files,
        action: |at| std::fs::remove_file(at.join("directory/x")),
        end: End::Works,
    },
    Action {
        name: "remove_other",
        sandbox: files,
        action: |at| std::fs::remove_file(at.join("y")),
        end: End::Fails(libc::EACCES),
    },
    Action {
        name: "make_directory",
        sandbox: files,
        action: |at| std::fs::create_dir(at.join("new")),
        end: End::Killed,
    },
    Action {
        name: "rename",
        sandbox: files,
        action: |at| std::fs::rename(at.join("directory/x"), at.join("z")),
        end: End::Killed,
    },
    Action { name: "mount", sandbox: nothing, action: |_| raw(libc::SYS_mount, [0; 3]), end: End::Killed },
    // Other processes, other privileges.
    Action {
        name: "execute",
        sandbox: nothing,
        action: |_| Command::new("/bin/true").status().map(drop),
        end: End::Killed,
    },
    Action {
        name: "fork",
        sandbox: nothing,
        // SAFETY: the child, should there be one, ends at once.
        action: |_| match unsafe { libc::fork() } {
            0 => std::process::exit(0),
            pid => call(pid.into()),
        },
        end: End::Killed,
    },
    Action {
        name: "clone3",
        sandbox: nothing,
        action: |_| raw(libc::SYS_clone3, [0; 3]),
        end: End::Fails(libc::ENOSYS),
    },
    Action { name: "ptrace", sandbox: nothing, action: |_| raw(libc::SYS_ptrace, [0; 3]), end: End::Killed },
    Action {
        name: "kill_parent",
        sandbox: nothing,
        action: |_| raw(libc::SYS_kill, [std::os::unix::process::parent_id().into(), 0, 0]),
        end: End::Killed,
    },
    // Nor can others look into this process; nothing in the sandbox can change that.
    Action {
        name: "not_dumpable",
        sandbox: |_| {
            vhost_user_blk_crypto::secret::forbid_core_dumps().expect("core dumps off");
            let dumpable = rustix::process::dumpable_behavior().expect("prctl");
            assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
            Sandbox::new()
        },
        action: |_| Ok(()),
        end: End::Works,
    },
    Action { name: "setuid", sandbox: nothing, action: |_| raw(libc::SYS_setuid, [0; 3]), end: End::Killed },
    Action { name: "bpf", sandbox: nothing, action: |_| raw(libc::SYS_bpf, [0; 3]), end: End::Killed },
    Action { name: "keyctl", sandbox: nothing, action: |_| raw(libc::SYS_keyctl, [0; 3]), end: End::Killed },
    Action { name: "limits", sandbox: nothing, action: |_| raw(libc::SYS_prlimit64, [0, 7, 8]), end: End::Killed },
    Action {
        name: "dumpable_again",
        sandbox: nothing,
        action: |_| raw(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0]),
        end: End::Killed,
    },
    // The network.
    Action {
        name: "socket_inet",
        sandbox: nothing,
        action: |_| raw(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0]),
        end: End::Killed,
    },
    Action {
        name: "socket_unix",
        sandbox: nothing,
        action: |_| raw(libc::SYS_socket, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0]),
        end: End::Killed,
    },
    // Code.
    Action { name: "map_code", sandbox: nothing, action: |_| map(libc::PROT_READ | libc::PROT_EXEC), end: End::Killed },
    Action { name: "map_data", sandbox: nothing, action: |_| map(libc::PROT_READ | libc::PROT_WRITE), end: End::Works },
    Action { name: "io_uring", sandbox: nothing, action: |_| raw(libc::SYS_io_uring_setup, [0; 3]), end: End::Killed },
    Action {
        name: "io_uring_no_new_ring",
        sandbox: |_| Sandbox::new().io_uring(true),
        action: |_| raw(libc::SYS_io_uring_setup, [0; 3]),
        end: End::Killed,
    },
    Action {
        name: "io_uring_nothing_registered",
        sandbox: |_| Sandbox::new().io_uring(true),
        action: |_| raw(libc::SYS_io_uring_register, [1000, 2, 0]),
        end: End::Killed,
    },
    // There is no descriptor 1000, but only the call matters.
    Action {
        name: "io_uring_enter",
        sandbox: |_| Sandbox::new().io_uring(true),
        action: |_| raw(libc::SYS_io_uring_enter, [1000, 0, 0]),
        end: End::Fails(libc::EBADF),
    },
    Action {
        name: "io_uring_unregister_files",
        sandbox: |_| Sandbox::new().io_uring(true),
        action: |_| raw(libc::SYS_io_uring_register, [1000, 3, 0]),
        end: End::Fails(libc::EBADF),
    },
    // Ordinary work.
    Action {
        name: "threads",
        sandbox: nothing,
        action: |_| {
            let work = |i: usize| vec![i as u8; i * 100_000].iter().map(|&byte| u64::from(byte)).sum::<u64>();
            let threads = (1..=8).map(|i| {
                std::thread::Builder::new().name(format!("thread {i}")).spawn(move || work(i)).map(|thread| (i, thread))
            });
            for thread in threads.collect::<io::Result<Vec<_>>>()? {
                assert_eq!(thread.1.join().expect("thread"), (thread.0 * thread.0) as u64 * 100_000);
            }
            Ok(())
        },
        end: End::Works,
    },
    Action {
        name: "panic_in_a_thread",
        sandbox: nothing,
        action: |_| match std::thread::spawn(|| panic!("on purpose")).join() {
            Err(_) => Ok(()),
            Ok(()) => Err(io::ErrorKind::Other.into()),
        },
        end: End::Works,
    },
    Action {
        name: "sleep_and_locked_memory",
        sandbox: nothing,
        action: |_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            vhost_user_blk_crypto::secret::SecretBox::new([0u8; 64]).map(drop)
        },
        end: End::Works,
    },
];

/// The main function of the process in the sandbox.
pub fn act(name: &str) -> ! {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("directory"));
    let Action { sandbox, action, .. } = ACTIONS.iter().find(|action| action.name == name).expect("action");
    match sandbox(&directory).apply() {
        Ok(missing) => missing.iter().for_each(|part| eprintln!("the sandbox lacks {part}")),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(200);
        }
    }
    let code = match action(&directory) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{name}: {error}");
            error.raw_os_error().unwrap_or(201)
        }
    };
    std::process::exit(code)
}

fn check(action: &Action) {
    let directory = tempfile::TempDir::new().expect("directory");
    std::fs::create_dir(directory.path().join("directory")).expect("directory");
    for name in ["read", "write", "y", "directory/x"] {
        std::fs::write(directory.path().join(name), name).expect("file");
    }
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let output = command.env(ACTION, action.name).env(DIRECTORY, directory.path()).env("RUST_BACKTRACE", "1").output();
    let output = output.expect("this program");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(end(output.status), Some(action.end), "{}: {text}", output.status);
}

fn end(status: ExitStatus) -> Option<End> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Some(End::Works),
        (Some(code @ 1..200), _) => Some(End::Fails(code)),
        (None, Some(libc::SIGSYS)) => Some(End::Killed),
        _ => None,
    }
}

/// The sandbox must come before the second thread.
fn threads_are_refused() {
    let ready = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| ready.wait());
        let error = Sandbox::new().apply().expect_err("there is another thread").to_string();
        assert!(error.contains("threads exist already"), "{error}");
        ready.wait();
    });
}

pub fn trials() -> Vec<Trial> {
    let mut trials: Vec<_> =
        ACTIONS.iter().map(|action| super::trial(format!("inside::{}", action.name), None, || check(action))).collect();
    trials.push(super::trial("inside::threads_are_refused", None, threads_are_refused));
    trials
}
