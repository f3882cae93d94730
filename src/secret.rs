// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Memory for keys: locked in RAM, left out of core dumps, zero in a forked child, wiped before it is freed.

use std::io;
use std::mem::size_of;
use std::ptr::NonNull;

use zeroize::Zeroize;

/// A value in pages of its own.
pub struct SecretBox<T> {
    value: NonNull<T>,
    mapped: usize,
}

// SAFETY: the box owns the memory alone, like `Box<T>`.
unsafe impl<T: Send> Send for SecretBox<T> {}
// SAFETY: as for `Send`; a shared reference gives out only `&T`.
unsafe impl<T: Sync> Sync for SecretBox<T> {}

impl<T> SecretBox<T> {
    /// Bytes of locked memory that one takes, with pages of 4 KiB.
    pub const LOCKED: usize = (size_of::<T>() + 4095) & !4095;

    /// Moves `value`, which must not hold a secret yet, into locked memory.
    ///
    /// # Errors
    /// What `mmap`, `mlock` or `madvise` say; `mlock` fails when `RLIMIT_MEMLOCK` is too small.
    pub fn new(value: T) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096, "a page is the largest alignment of a mapping") };
        let mapped = size_of::<T>().max(1).next_multiple_of(system::page_size());
        let address = system::map(mapped)?;
        let value_at = NonNull::new(address.cast::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // From here on, dropping the guard unmaps. If a call below fails there is no `T` yet, so `T`'s own drop must
        // not run.
        let guard = Unmap { address, mapped };
        // SAFETY: the range is the mapping made above.
        unsafe {
            system::protect(address, mapped)?;
            // SAFETY: the mapping is large enough and, being page-aligned, aligned for `T`.
            value_at.write(value);
        }
        std::mem::forget(guard);
        Ok(Self { value: value_at, mapped })
    }
}

impl<T> std::ops::Deref for SecretBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `value` points to a `T` that lives as long as `self`.
        unsafe { self.value.as_ref() }
    }
}

impl<T> std::ops::DerefMut for SecretBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: `value` points to a `T` that lives as long as `self`, which is borrowed mutably.
        unsafe { self.value.as_mut() }
    }
}

impl<T> Drop for SecretBox<T> {
    fn drop(&mut self) {
        let guard = Unmap { address: self.value.as_ptr().cast(), mapped: self.mapped };
        // SAFETY: the value is dropped once, here, and not used again. Its bytes are then plain memory of the mapping.
        unsafe {
            self.value.drop_in_place();
            std::slice::from_raw_parts_mut(guard.address.cast::<u8>(), guard.mapped).zeroize();
        }
    }
}

struct Unmap {
    address: *mut std::ffi::c_void,
    mapped: usize,
}

impl Drop for Unmap {
    fn drop(&mut self) {
        // SAFETY: the range is one whole mapping of ours, and its owner is gone.
        unsafe { system::unmap(self.address, self.mapped) };
    }
}

/// Pages from the system.
#[cfg(not(miri))]
mod system {
    use std::ffi::c_void;
    use std::io;

    pub use rustix::param::page_size;

    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};

    pub fn map(len: usize) -> io::Result<*mut c_void> {
        // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing.
        Ok(unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)? })
    }

    /// # Safety
    /// The range must be a mapping of [`map`].
    pub unsafe fn protect(address: *mut c_void, len: usize) -> io::Result<()> {
        // SAFETY: the caller's promise; none of these changes what is in memory.
        unsafe {
            mlock(address, len)?;
            madvise(address, len, Advice::LinuxDontDump)?;
            madvise(address, len, Advice::LinuxWipeOnFork)?;
        }
        Ok(())
    }

    /// # Safety
    /// The range must be a mapping of [`map`] that nothing uses any more.
    pub unsafe fn unmap(address: *mut c_void, len: usize) {
        // SAFETY: the caller's promise. This also unlocks. If it fails, the memory stays mapped, which is harmless.
        let _ = unsafe { munmap(address, len) };
    }
}

/// Miri checks how the memory is used, but has none of these calls.
#[cfg(miri)]
mod system {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ffi::c_void;
    use std::io;

    pub fn page_size() -> usize {
        4096
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, page_size()).expect("whole pages")
    }

    pub fn map(len: usize) -> io::Result<*mut c_void> {
        // SAFETY: `len` is not 0.
        Ok(unsafe { alloc_zeroed(layout(len)) }.cast())
    }

    pub unsafe fn protect(_: *mut c_void, _: usize) -> io::Result<()> {
        Ok(())
    }

    pub unsafe fn unmap(address: *mut c_void, len: usize) {
        // SAFETY: made by `map` with the same layout, and not used any more.
        unsafe { dealloc(address.cast(), layout(len)) };
    }
}

/// Calls `action`, which works on secrets, and then overwrites `STACK` bytes of the stack below: as many as the action
/// may have used.
///
/// Moving a value leaves a copy that no destructor sees, and the crates that expand keys return them by value. So every
/// command on keys runs inside this.
pub fn with_wiped_stack<const STACK: usize, R>(action: impl FnOnce() -> R) -> R {
    #[inline(never)]
    fn below<R>(action: impl FnOnce() -> R) -> R {
        action()
    }
    #[inline(never)]
    fn wipe<const STACK: usize>() {
        // Its frame covers the frames of `below`. It is filled at once, because wiping word by word takes longer than
        // programming a key. The test below checks that the compiler keeps it.
        let frame = [0u8; STACK];
        std::hint::black_box(&frame);
    }
    let result = below(action);
    wipe::<STACK>();
    result
}

/// For [`with_wiped_stack`]: enough to expand a raw key and put it in its place. Unoptimised code takes more.
pub const PROGRAM_STACK: usize = if cfg!(debug_assertions) { COMMAND_STACK } else { 8 << 10 };

/// For [`with_wiped_stack`]: enough to expand a raw key in place with the CPU's own instructions.
pub const EXPANSION_STACK: usize = if cfg!(debug_assertions) { COMMAND_STACK } else { 1 << 10 };

/// For [`with_wiped_stack`]: enough for every operation on keys, several times what unwrapping takes.
pub const COMMAND_STACK: usize = 64 << 10;

/// Overwrites what a signal handler has left of this thread: the kernel saves the CPU's registers, which may hold round
/// keys, on the handler's stack. Call it when a handler with `SA_ONSTACK` has run while keys were used. Without such a
/// stack it does nothing.
pub fn wipe_signal_stack() {
    let mut stack = std::mem::MaybeUninit::<libc::stack_t>::zeroed();
    // SAFETY: it only queries, and writes a `stack_t`, for which there is room; a zeroed one is valid.
    let stack = unsafe {
        libc::sigaltstack(std::ptr::null(), stack.as_mut_ptr());
        stack.assume_init()
    };
    if stack.ss_sp.is_null() || stack.ss_flags & (libc::SS_DISABLE | libc::SS_ONSTACK) != 0 {
        return;
    }
    // SAFETY: the memory is this thread's signal stack, and no handler runs: another thread takes external signals, and
    // nothing here raises one.
    let stack = unsafe { std::slice::from_raw_parts_mut(stack.ss_sp.cast::<u8>(), stack.ss_size) };
    stack.fill(0);
    // Keeps the compiler from removing the stores.
    std::hint::black_box(stack);
}

/// Keeps secrets out of core dumps and away from other processes of the same user.
///
/// # Errors
/// What `setrlimit` or `prctl` say.
pub fn forbid_core_dumps() -> io::Result<()> {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks for 16-byte pieces of a key in this thread's stack, below the caller.
    #[inline(never)]
    fn pieces_on_the_stack(key: &[u8]) -> usize {
        let marker = 0u8;
        let here = std::hint::black_box(&raw const marker) as u64;
        let mut stack = vec![0; 64 << 10];
        let memory = std::fs::File::open("/proc/self/mem").expect("own memory");
        let from = here - stack.len() as u64;
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut stack, from).expect("own stack");
        key.chunks(16).filter(|piece| stack.windows(16).any(|bytes| bytes == *piece)).count()
    }

    #[test]
    fn no_key_stays_on_the_stack() {
        use crate::keyslot::{KeyConfig, KeyslotTable};
        let table = KeyslotTable::new(1, scattered_xts::Implementation::detect()).expect("keyslot");
        let config = KeyConfig { data_unit_bits: 12, dun_bytes: 8 };
        // The only copy, on the heap.
        let mut key = Box::new([0; 64]);
        key.iter_mut().zip(1u8..).for_each(|(byte, i)| *byte = i.wrapping_mul(73));
        let program = || table.program_now(0, &key, config).map(drop);
        // Makes the stack long enough for the test to read.
        std::hint::black_box([0u8; 128 << 10]);
        program().expect("slot");
        // Checks that the test can find a key: a round key is the key itself, and moves leave copies.
        let without = pieces_on_the_stack(&*key);
        with_wiped_stack::<PROGRAM_STACK, _>(program).expect("slot");
        assert_eq!(pieces_on_the_stack(&*key), 0, "(without wiping there were {without})");
        with_wiped_stack::<COMMAND_STACK, _>(|| {
            let wrapping = crate::wrapped::Wrapping::new(None).expect("wrapping keys");
            let blob = wrapping.import(&key[..32]).expect("import");
            let blob = wrapping.prepare(&blob).expect("prepare");
            wrapping.inline_key(&blob).map(drop).expect("key");
        });
        assert_eq!(pieces_on_the_stack(&*key), 0);
    }

    #[test]
    fn the_kernel_reports_the_memory_as_locked_and_not_dumped() {
        let secret = SecretBox::new([7u8; 100]).expect("one locked page");
        assert_eq!(*secret, [7u8; 100]);
        let start = secret.value.as_ptr() as usize;
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let flags = smaps
            .lines()
            .skip_while(|line| {
                // The mapping may have been merged with a neighbour of the same kind: look for the one around it.
                let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
                !range.is_some_and(|(from, to)| {
                    let parse = |text| usize::from_str_radix(text, 16).unwrap_or(0);
                    (parse(from)..parse(to)).contains(&start)
                })
            })
            .find(|line| line.starts_with("VmFlags:"))
            .expect("VmFlags")
            .to_owned();
        // proc(5): lo = locked, dd = not in core dumps, wf = wiped on fork.
        for flag in ["lo", "dd", "wf"] {
            assert!(flags.split_whitespace().any(|word| word == flag), "{flag} is missing in {flags}");
        }
    }
}
