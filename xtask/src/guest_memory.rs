// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's memory as the host sees it: QEMU has it in a memfd, where a physical address is an offset.

use anyhow::{Context, Result, ensure};
use procfs::process::{FDInfo, FDTarget, Process};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// For how long a ring is overwritten. The device writes there, too, and the driver reads the ring only when a request
/// ends.
const WRITING: Duration = Duration::from_secs(2);
/// Flags and index, before the elements of a used ring.
const RING_HEADER: u64 = 4;
const ELEMENT_BYTES: u64 = 8;

fn open(qemu: u32) -> Result<File> {
    let is_memory = |fd: &FDInfo| match &fd.target {
        FDTarget::Path(path) => path.to_string_lossy().contains("memory-backend-memfd"),
        FDTarget::MemFD(name) => name.contains("memory-backend-memfd"),
        _ => false,
    };
    let mut files = Process::new(qemu.cast_signed())?.fd()?.flatten();
    let memory = files.find(is_memory).with_context(|| format!("process {qemu} has no guest memory"))?;
    Ok(File::options().read(true).write(true).open(format!("/proc/{qemu}/fd/{}", memory.fd))?)
}

/// Puts elements that no device may write into a used ring. `line`: its address, and how many elements it has.
pub fn break_ring(qemu: u32, line: &str) -> Result<()> {
    let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [ring, size] = numbers[..] else { anyhow::bail!("{line:?} is not an address and a number of elements") };
    let memory = open(qemu)?;
    ensure!(size <= 1 << 15 && ring < memory.metadata()?.len(), "there is no ring at {line:?}");
    let elements = vec![0xff; usize::try_from(size * ELEMENT_BYTES)?];
    let end = Instant::now() + WRITING;
    while Instant::now() < end {
        let mut index = [0; 2];
        memory.read_exact_at(&mut index, ring + 2)?;
        memory.write_all_at(&elements, ring + RING_HEADER)?;
        memory.write_all_at(&u16::from_le_bytes(index).wrapping_add(1).to_le_bytes(), ring + 2)?;
    }
    Ok(())
}
