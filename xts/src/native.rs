// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A key schedule and the kernel that works with it.

use vm_memory::VolatileSlice;

use crate::crc32c::Crc32c;
use crate::key::{BLOCK_BYTES, KEY_BYTES};
use crate::pieces::{Cipher, Direction, Hints};
use crate::tweak::{StartTweaks, TWEAKS_AT_ONCE};

/// Round keys of AES-256, each for four lanes.
///
/// A kernel loads them again for each group of blocks. With AVX-512 that is 3 to 6 % faster without a broadcast at each
/// load. For kernels that load only the first lane, the others are 0.
pub(super) type RoundKeys = [[u128; 4]; 15];

/// The three schedules of an XTS key, 2880 bytes, wiped when dropped. A round key is the 16 bytes of FIPS 197, in memory
/// order.
#[repr(C, align(64))]
pub(super) struct Schedule {
    pub encrypt: RoundKeys,
    /// Of the equivalent inverse cipher (FIPS 197, 5.3.5), in the order of their use.
    pub decrypt: RoundKeys,
    pub tweak: RoundKeys,
}

impl Schedule {
    const BLANK: Self = {
        const NONE: RoundKeys = [[0; 4]; 15];
        Self { encrypt: NONE, decrypt: NONE, tweak: NONE }
    };

    fn wipe(&mut self) {
        let Self { encrypt, decrypt, tweak } = self;
        for keys in [encrypt, decrypt, tweak] {
            // `zeroize` stores word by word, which takes longer than programming a key.
            keys.fill([0; 4]);
            // Keeps the compiler from removing the stores.
            std::hint::black_box(keys);
        }
    }

    /// Enough if the other lanes are not used, in half the time.
    fn wipe_first_lane(&mut self) {
        let Self { encrypt, decrypt, tweak } = self;
        for keys in [encrypt, decrypt, tweak] {
            for [first, ..] in keys.iter_mut() {
                *first = 0;
            }
            std::hint::black_box(keys);
        }
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// Encrypts or decrypts `tweaks.len() * blocks` AES blocks from one place to another, which may be the same place:
/// `blocks` blocks of each data unit, beginning with the block whose tweak is given.
///
/// Every byte of the source is loaded once, and only results are stored, both by instructions that are opaque to the
/// compiler: the memory may be a guest's, which accesses it meanwhile. Other CPUs see results of non-temporal stores
/// only after [`crate::store_fence`]. With CRCs, the last 16 blocks of a call may reach the target only by the next call or
/// [`Kernel::finish_crc`]. A call with fewer blocks leaves none behind.
///
/// # Safety
/// The CPU can run the kernel; both places have that length; `blocks` is not 0. With CRCs, the targets of earlier calls with 16
/// blocks or more still exist.
pub(super) type Crypt =
    unsafe fn(&Schedule, tweaks: &[u128], blocks: usize, from: *const u8, to: *mut u8, hints: &mut Hints<'_>);

/// An implementation for an instruction set.
pub(super) struct Kernel {
    /// Whether only the first lane has round keys; the others are always 0.
    pub one_lane: bool,
    /// Fills the schedule.
    ///
    /// # Safety
    /// The CPU can run the kernel.
    pub expand: unsafe fn(&mut Schedule, key: &[u8; KEY_BYTES]),
    /// Encrypts the numbers of `count` data units from `number` on, at most [`TWEAKS_AT_ONCE`]. May overwrite the rest.
    ///
    /// # Safety
    /// The CPU can run the kernel.
    pub start_tweaks: unsafe fn(&Schedule, number: u128, &mut StartTweaks, count: usize),
    /// Digests the group that is left, and moves it to its target. `None`: the kernel computes no CRCs.
    ///
    /// # Safety
    /// The CPU can run the kernel. The targets still exist.
    pub finish_crc: Option<unsafe fn(&mut Crc32c<'_>)>,
    /// See [`Crypt`].
    pub encrypt: Crypt,
    /// See [`Crypt`].
    pub decrypt: Crypt,
}

/// An expanded key for a kernel that this CPU can run.
pub(super) struct Native {
    kernel: &'static Kernel,
    schedule: Schedule,
}

impl Native {
    /// A blank key for a kernel. [`Implementation::kernel`](crate::Implementation::kernel) returns a kernel only if
    /// this CPU can run it.
    pub fn blank(kernel: &'static Kernel) -> Self {
        Self { kernel, schedule: Schedule::BLANK }
    }

    /// Expands a key in place.
    pub fn set(&mut self, key: &[u8; KEY_BYTES]) {
        // SAFETY: a `Native` exists only for a kernel that the CPU can run.
        unsafe { (self.kernel.expand)(&mut self.schedule, key) };
    }

    /// Whether there is no key.
    pub fn is_blank(&self) -> bool {
        let Schedule { encrypt, decrypt, tweak } = &self.schedule;
        [encrypt, decrypt, tweak].iter().all(|keys| keys.as_flattened().iter().all(|&word| word == 0))
    }

    /// Whether the kernel computes CRCs.
    pub fn has_crc32c(&self) -> bool {
        self.kernel.finish_crc.is_some()
    }

    /// Wipes the key.
    pub fn wipe(&mut self) {
        if self.kernel.one_lane {
            self.schedule.wipe_first_lane();
        } else {
            self.schedule.wipe();
        }
    }
}

impl Cipher for Native {
    fn finish_crc(&self, crc: &mut Crc32c<'_>) {
        if let Some(finish) = self.kernel.finish_crc {
            // SAFETY: as in `set`. `pieces::run` borrows all targets until it has called this, but for those of single blocks.
            unsafe { finish(crc) };
        }
    }

    fn start_tweaks(&self, number: u128, tweaks: &mut StartTweaks, count: usize) {
        // SAFETY: as in `set`.
        unsafe { (self.kernel.start_tweaks)(&self.schedule, number, tweaks, count.min(TWEAKS_AT_ONCE)) }
    }

    fn crypt(
        &self,
        direction: Direction,
        tweaks: &[u128],
        blocks: usize,
        from: VolatileSlice<'_>,
        to: VolatileSlice<'_>,
        hints: &mut Hints<'_>,
    ) {
        let bytes = tweaks.len().checked_mul(blocks).and_then(|blocks| blocks.checked_mul(BLOCK_BYTES));
        let fits = bytes.is_some_and(|bytes| bytes != 0 && bytes <= from.len() && bytes <= to.len());
        debug_assert!(fits);
        if !fits {
            return;
        }
        let crypt = match direction {
            Direction::Encrypt => self.kernel.encrypt,
            Direction::Decrypt => self.kernel.decrypt,
        };
        let (from, to) = (from.ptr_guard(), to.ptr_guard_mut());
        // SAFETY: the CPU can run the kernel, as in `set`. Both slices stand for memory that may be read and written
        // for their lengths, which were checked. The last blocks may be stored later, without the guard: it holds nothing, unless
        // vm-memory has its feature `xen`.
        unsafe { crypt(&self.schedule, tweaks, blocks, from.as_ptr(), to.as_ptr(), hints) }
    }
}
