// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the log of the guest's kernel: signs of trouble, and whether encryption ran natively.

/// What must never appear, even if the case itself passes.
const TROUBLE: &[&str] = &[
    "BUG: ",
    "Oops: ",
    "------------[ cut here ]------",
    "general protection fault",
    "Kernel panic",
    "kernel BUG at",
    // lockdep's words, most of which follow "WARNING: " without a place in the code.
    "possible recursive locking",
    "possible circular locking",
    "possible irq lock inversion dependency",
    "lock order detected",
    "inconsistent lock state",
    "bad unlock balance",
    "lock held when returning to user space",
    "still has locks held",
    "Nested lock was not taken",
    "bad contention detected",
    "chain_key collision",
    "suspicious RCU usage",
    "held lock freed",
    "detected stall",
    "detected expedited stalls",
    "soft lockup",
    "hard LOCKUP",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "UBSAN:",
    "KASAN:",
    "unreferenced object",
    "irq event stamp",
    "nobody cared",
    "Unable to handle kernel",
    "scheduling while atomic",
    "sleeping function called from invalid",
    // Checks that are off: lockdep, kmemleak, KCSAN, the DMA API's. And SLUB's word without a colon.
    "non-static key",
    "turning off the locking correctness validator",
    "kmemleak is off",
    "KCSAN is off",
    "DMA-API: debugging out of memory",
    "dma-debug disabled",
    "] BUG kmalloc",
];

/// What the kernel says when a request has failed, which programs may not notice: the kernel tries a failed readahead again. The
/// block layer names the kind before "error", such as "operation not supported". File systems say what is wrong with what they read. And
/// the driver's word for a key that it cannot program.
const ERRORS: &[&str] = &[
    " error, dev ",
    "Buffer I/O error",
    "EXT4-fs error",
    "BTRFS error ",
    "BTRFS: error ",
    "BTRFS critical ",
    "csum failed ",
    "checksum verify failed ",
    "read error corrected: ",
    "run fsck to fix",
    "Stopped filesystem due to reason",
    "Remounting filesystem read-only",
    "is still empty after all keys were programmed",
];

/// KCSAN's first words about a data race. Its report ends with a line of `=`.
const RACE: &str = "BUG: KCSAN: ";
/// In a report about our driver.
const OUR_FUNCTIONS: [&str; 2] = ["vbc_", "[virtio_blk_crypto]"];

/// The first line that shows that the kernel is in trouble. Of data races, only those that our driver has part in: the kernel has some of
/// its own.
pub fn trouble(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let ours = |line: &str| OUR_FUNCTIONS.iter().any(|name| line.contains(name));
        let bad = match line.contains(RACE) {
            true => ours(line) || lines.clone().take_while(|line| !line.ends_with("=====")).any(ours),
            false => is_trouble(line),
        };
        if bad {
            return Some(line);
        }
    }
    None
}

fn is_trouble(line: &str) -> bool {
    TROUBLE.iter().any(|sign| line.contains(sign))
        || (line.contains("INFO: task ") && line.contains(" blocked for more than "))
        || (line.contains("WARNING: ") && (line.contains(" at ") || line.contains("CPU:")))
}

/// The first line about a request that has failed, or about an error that a file system has found.
pub fn error(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| ERRORS.iter().any(|sign| line.contains(sign)))
}

/// How file contents were encrypted, in the words of fscrypt.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Words {
    /// `... using blk-crypto (native)`, the whole line.
    Native(String),
    /// `... using blk-crypto-fallback`.
    Fallback(String),
    /// Nothing was said.
    Silent,
}

/// Finds fscrypt's messages. A fallback anywhere outweighs everything else.
pub fn words(dmesg: &str) -> Words {
    let said = |what: &str| {
        let line = dmesg.lines().find(|l| l.contains("fscrypt: ") && l.contains(what))?;
        line.find("fscrypt: ").map(|at| line[at..].trim().to_owned())
    };
    match (said("blk-crypto-fallback"), said("blk-crypto (native)")) {
        (Some(line), _) => Words::Fallback(line),
        (None, Some(line)) => Words::Native(line),
        (None, None) => Words::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_seen_and_chatter_is_not() {
        let bad = [
            "[    1.0] WARNING: CPU: 0 PID: 1 at block/blk-crypto.c:10 x+0x1/0x2",
            "[    1.0] WARNING: block/blk-crypto.c:10 at x+0x1/0x2, CPU#1: sh/1",
            "[   9.0] INFO: task fio:7 blocked for more than 122 seconds.",
            "BUG: kernel NULL pointer dereference, address: 0",
            "WARNING: HARDIRQ-safe -> HARDIRQ-unsafe lock order detected",
            "WARNING: bad unlock balance detected!",
            "[ BUG: Invalid wait context ]",
            "BUG: KASAN: slab-use-after-free in vbc_queue_rq+0x1/0x2",
            "DMA-API: ------------[ cut here ]------------",
            "UBSAN: array-index-out-of-bounds in vbc_main.c:1:2",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "INFO: trying to register non-static key.",
            "kmemleak is off",
        ];
        for line in bad {
            assert_eq!(trouble(&format!("fine\n{line}\r\nfine")), Some(line));
        }
        for line in ["loading out-of-tree module taints kernel.", "fs-verity: FILE CORRUPTED", "WARNING: nothing"] {
            assert_eq!(trouble(line), None);
        }
    }

    #[test]
    fn races_of_our_driver_are_seen() {
        let report = |first: &str, second: &str| {
            let frame = "=".repeat(66);
            format!(
                "[ 1.0] {frame}\n[ 1.0] BUG: KCSAN: data-race in {first} / {second}\n\nread to 0x1 of 8 bytes by task 7 on cpu 1:\n \
                 {first}+0x1/0x2\n blk_mq_run_hw_queue+0x1/0x2\n\nwrite to 0x1 of 8 bytes by interrupt on cpu 0:\n {second}+0x1/0x2\n\
                 [ 1.0] {frame}\n"
            )
        };
        let theirs = report("tick_do_update_jiffies64", "tick_nohz_next_event");
        assert_eq!(trouble(&theirs), None);
        for ours in [report("vbc_queue_rq", "vbc_done"), report("kfree [virtio_blk_crypto]", "memcpy")] {
            assert!(trouble(&format!("{theirs}{ours}{theirs}")).is_some_and(|line| ours.contains(line)));
        }
        assert_eq!(trouble(&format!("{theirs}BUG: sleeping\n")), Some("BUG: sleeping"));
    }

    #[test]
    fn failed_requests_are_seen() {
        let bad = [
            "[   12.3] I/O error, dev vda, sector 2056 op 0x0:(READ) flags 0x80700 phys_seg 4 prio class 2",
            "[   12.3] operation not supported error, dev vda, sector 2056 op 0x3:(DISCARD) flags 0x800 phys_seg 1 prio class 2",
            "virtio_blk_crypto virtio2: keyslot 3 is still empty after all keys were programmed",
            "BTRFS error (device vda): bdev /dev/vda errs: wr 0, rd 0, flush 0, corrupt 1, gen 0",
            "BTRFS: error (device vda state A) in btrfs_finish_one_ordered:3242: errno=-17 Object already exists",
            "BTRFS critical (device vda): corrupt leaf: root=5 block=30441472 slot=3",
            "BTRFS warning (device vda): csum failed root 5 ino 257 off 0 csum 0x1 expected csum 0x2 mirror 1",
            "BTRFS warning (device vda): checksum verify failed on logical 30441472 mirror 1 wanted 0x1 found 0x2 level 0",
            "BTRFS info (device vda): read error corrected: ino 257 off 0 (dev /dev/vda sector 8)",
            "F2FS-fs (vda): inconsistent node block, node_type:0, nid:4; run fsck to fix.",
            "F2FS-fs (vda): Stopped filesystem due to reason: 3",
            "F2FS-fs (vda): Remounting filesystem read-only",
        ];
        for line in bad {
            assert_eq!(error(&format!("fine\n{line}\r\nfine")), Some(line));
        }
        for line in [
            "EXT4-fs (vda): mounted filesystem",
            "BTRFS info (device vda): first mount of filesystem",
            "BTRFS warning (device vda): devid 2 uuid x is missing",
            "F2FS-fs (vda): Mounted with checkpoint version = 1",
        ] {
            assert_eq!(error(line), None);
        }
    }

    #[test]
    fn the_kernels_words() {
        let native = "[ 3.1] fscrypt: AES-256-XTS using blk-crypto (native)";
        assert_eq!(words(native), Words::Native("fscrypt: AES-256-XTS using blk-crypto (native)".into()));
        let both = format!("{native}\n[4.0] fscrypt: Adiantum using blk-crypto-fallback\n");
        assert!(matches!(words(&both), Words::Fallback(_)));
        assert_eq!(words("hello"), Words::Silent);
    }
}
