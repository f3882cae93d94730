// SPDX-License-Identifier: Apache-2.0 OR MIT

//! seccomp: the allowed system calls. There are three filters, and the kernel applies the strictest answer:
//!
//! 1. calls on the list are allowed, any other kills the process;
//! 2. calls that a library tries and does not need (opening files, looking up paths) fail with "permission denied";
//! 3. `clone3` fails with "no such system call": its flags are in memory, where a filter cannot see them. The C library
//!    then falls back to `clone`, which is allowed for threads only.
//!
//! The list covers the calls of the GNU C library and of musl. A call that is allowed for any argument costs almost
//! nothing: the kernel keeps these in a bitmap.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::{FILTERED, Missing, Sandbox, SandboxError};
use crate::probe;

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;
type ArgCondition = Result<SeccompCondition, seccompiler::BackendError>;

/// Allowed for any argument.
const ANY: &[c_long] = &[
    // Data.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_flock,
    // Descriptors and waiting.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_ppoll,
    libc::SYS_memfd_create,
    // Frontends. Creating sockets is not allowed.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    // Memory. `mmap` and `mprotect` are below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    // Threads. `clone` is below.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals. Sending them is below.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
];

/// Older forms, which newer architectures lack. musl looks at a file with `stat` and `lstat`, before it is removed.
#[cfg(target_arch = "x86_64")]
const ANY_OF_THIS_CPU: &[c_long] = &[
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_create,
    libc::SYS_time,
    libc::SYS_dup2,
    libc::SYS_stat,
    libc::SYS_lstat,
];
#[cfg(not(target_arch = "x86_64"))]
const ANY_OF_THIS_CPU: &[c_long] = &[];

/// Fails with EACCES, unless files are opened by path. musl uses the older form where there is one.
#[cfg(target_arch = "x86_64")]
const OPEN: &[c_long] = &[libc::SYS_openat, libc::SYS_open];
#[cfg(not(target_arch = "x86_64"))]
const OPEN: &[c_long] = &[libc::SYS_openat];

/// Fail with EACCES. A library asks for the number of CPUs, a panic for the program's symbols.
const REFUSED: &[c_long] = &[libc::SYS_openat2, libc::SYS_readlinkat, libc::SYS_faccessat, libc::SYS_getcwd];
#[cfg(target_arch = "x86_64")]
const REFUSED_OF_THIS_CPU: &[c_long] = &[libc::SYS_readlink, libc::SYS_access];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_OF_THIS_CPU: &[c_long] = &[];

/// Puts the calling thread and its later threads under the filters.
pub(super) fn restrict(sandbox: &Sandbox) -> Result<Option<Missing>, SandboxError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(Some(Missing("seccomp: not on this CPU".into())));
    };
    if !can_be_made() {
        return Ok(Some(Missing(format!("seccomp: {FILTERED}"))));
    }
    let filter = |rules, otherwise, action| -> Result<BpfProgram, seccompiler::Error> {
        let filter = SeccompFilter::new(rules, otherwise, action, arch)?;
        Ok(BpfProgram::try_from(filter)?)
    };
    let refused = || REFUSED.iter().chain(REFUSED_OF_THIS_CPU).chain(if sandbox.opens_files() { &[] } else { OPEN });
    let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
    // The strictest comes last, because it allows no further filters.
    let filters = [
        filter(plain(&[libc::SYS_clone3]), SeccompAction::Allow, errno(libc::ENOSYS))?,
        filter(plain(refused()), SeccompAction::Allow, errno(libc::EACCES))?,
        filter(allowed(sandbox)?, SeccompAction::KillProcess, SeccompAction::Allow)?,
    ];
    for program in &filters {
        match apply_filter(program) {
            Err(seccompiler::Error::Seccomp(error))
                if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) =>
            {
                return Ok(Some(Missing(format!("seccomp: the kernel does not have it ({error})"))));
            }
            result => result?,
        }
    }
    Ok(None)
}

/// Whether the seccomp call is allowed. The kernel may still not support it.
fn can_be_made() -> bool {
    probe::is_allowed(|| {
        // SAFETY: no filter is at the address 0, so nothing is installed.
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::null::<u8>()) };
        !matches!(io::Error::last_os_error().raw_os_error(), Some(libc::EPERM | libc::EACCES))
    })
}

fn plain<'a>(calls: impl IntoIterator<Item = &'a c_long>) -> Rules {
    calls.into_iter().map(|&call| (call, Vec::new())).collect()
}

fn allowed(sandbox: &Sandbox) -> Result<Rules, seccompiler::Error> {
    let refused = REFUSED.iter().chain(REFUSED_OF_THIS_CPU).chain(OPEN).chain(&[libc::SYS_clone3]);
    let mut rules = plain(ANY.iter().chain(ANY_OF_THIS_CPU).chain(refused));
    if sandbox.io_uring {
        // No new rings. The existing ones can only read and write the image, and unregister it at the end.
        rules.extend(plain(&[libc::SYS_io_uring_enter]));
        rules.insert(libc::SYS_io_uring_register, vec![SeccompRule::new(vec![is(1, UNREGISTER_FILES)?])?]);
    }
    if sandbox.removes_files() {
        rules.extend(plain(&[libc::SYS_unlinkat]));
        #[cfg(target_arch = "x86_64")]
        rules.extend(plain(&[libc::SYS_unlink]));
    }
    for (call, alternatives) in with_conditions() {
        let alternatives = alternatives.into_iter().map(|condition| SeccompRule::new(vec![condition?]));
        rules.insert(call, alternatives.collect::<Result<_, _>>()?);
    }
    Ok(rules)
}

/// Calls that are allowed when one of the conditions holds.
fn with_conditions() -> Vec<(c_long, Vec<ArgCondition>)> {
    let me = u64::from(std::process::id());
    let threads = flags(libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND);
    let exec = flags(libc::PROT_EXEC);
    vec![
        // Threads, no processes.
        (libc::SYS_clone, vec![SeccompCondition::new(0, Len::Qword, Op::MaskedEq(threads), threads)]),
        // No new code.
        (libc::SYS_mmap, vec![SeccompCondition::new(2, Len::Dword, Op::MaskedEq(exec), 0)]),
        (libc::SYS_mprotect, vec![SeccompCondition::new(2, Len::Dword, Op::MaskedEq(exec), 0)]),
        // To this process only, for abort().
        (libc::SYS_kill, vec![is(0, me)]),
        (libc::SYS_tgkill, vec![is(0, me)]),
        // On a connected socket, for a signal handler.
        (libc::SYS_sendto, vec![SeccompCondition::new(4, Len::Qword, Op::Eq, 0)]),
        // Names of threads and of mappings.
        (
            libc::SYS_prctl,
            [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA].map(|option| is(0, flags(option))).into(),
        ),
        // Of this process, read only.
        (libc::SYS_prlimit64, vec![SeccompCondition::new(2, Len::Qword, Op::Eq, 0)]),
        (
            libc::SYS_ioctl,
            // Secure erase, sizes of block devices, non-blocking, close-on-exec, bytes to be read, and whether something is
            // a terminal.
            [BLKSECDISCARD, BLKGETSIZE64, libc::FIONBIO, libc::FIOCLEX, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ]
                .map(|request| is(1, u64::from(request as u32))) // numbers of 32 bits; the type depends on the C library
                .into(),
        ),
    ]
}

/// `IORING_UNREGISTER_FILES` of <linux/io_uring.h>.
const UNREGISTER_FILES: u64 = 3;

/// `_IO(0x12, 125)` and `_IOR(0x12, 114, size_t)`, <linux/fs.h>.
const BLKSECDISCARD: libc::Ioctl = 0x127d;
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272u32 as libc::Ioctl;

fn flags(bits: i32) -> u64 {
    u64::from(bits.cast_unsigned())
}

fn is(argument: u8, value: u64) -> ArgCondition {
    SeccompCondition::new(argument, Len::Dword, Op::Eq, value)
}
