// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `preadv2` and `pwritev` on memory that others may change, such as the guest's: no Rust reference to it is made.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use smallvec::SmallVec;
use vm_memory::VolatileSlice;

/// The maximum number of pieces per call (`UIO_MAXIOV`).
const MOST_PIECES: usize = 1024;

/// Reads once. Returns the bytes read; 0 at the end of the file.
///
/// # Errors
/// The system's: EAGAIN when `RWF_NOWAIT` is among the flags and the read would wait.
pub fn read(file: &File, offset: u64, pieces: &[VolatileSlice<'_>], flags: libc::c_int) -> io::Result<usize> {
    let vectors = vectors(pieces);
    // SAFETY: the vectors name memory that is mapped as long as the slices live, which is longer than the call. Others
    // may write this memory at any time, so the kernel may, too.
    let result = unsafe {
        libc::preadv2(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int, to_off(offset)?, flags)
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Writes once. Returns the bytes written.
///
/// # Errors
/// Those of the system calls.
pub fn write(file: &File, offset: u64, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let vectors = vectors(pieces);
    // SAFETY: as in `read`; the kernel only reads it.
    let result =
        unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as libc::c_int, to_off(offset)?) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Calls `action` with an offset and the remaining pieces, until none remain.
///
/// # Errors
/// Those of `action`; `at_end` if it moves nothing.
pub fn all(
    mut offset: u64,
    pieces: &[VolatileSlice<'_>],
    at_end: io::ErrorKind,
    mut action: impl FnMut(u64, &[VolatileSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut pieces: SmallVec<[VolatileSlice<'_>; 4]> =
        pieces.iter().filter(|piece| !piece.is_empty()).copied().collect();
    while !pieces.is_empty() {
        let mut moved = match action(offset, &pieces) {
            Ok(0) => return Err(at_end.into()),
            Ok(moved) => moved,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        offset += moved as u64; // within the image, so it cannot overflow; usize to u64 loses nothing
        pieces.retain(|piece| match piece.offset(moved) {
            Ok(rest) if !rest.is_empty() => {
                *piece = rest;
                moved = 0;
                true
            }
            _ => {
                moved = moved.saturating_sub(piece.len());
                false
            }
        });
    }
    Ok(())
}

fn vectors(pieces: &[VolatileSlice<'_>]) -> SmallVec<[libc::iovec; 4]> {
    pieces
        .iter()
        .take(MOST_PIECES)
        .map(|piece| libc::iovec { iov_base: piece.ptr_guard_mut().as_ptr().cast(), iov_len: piece.len() })
        .collect()
}

fn to_off(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_moved_whatever_the_system_takes_at_once() {
        let mut memory: Vec<u8> = (0..200u8).collect();
        let whole = VolatileSlice::from(&mut memory[..]);
        let pieces: Vec<_> =
            [(0, 7), (7, 0), (7, 100), (107, 93)].map(|(at, len)| whole.subslice(at, len).expect("inside")).into();
        for most in 1..202 {
            let (mut seen, mut at) = (Vec::<u8>::new(), 50);
            all(50, &pieces, io::ErrorKind::WriteZero, |offset, rest| {
                assert_eq!(offset, at);
                let mut bytes: Vec<u8> = rest
                    .iter()
                    .flat_map(|piece| {
                        let mut bytes = vec![0; piece.len()];
                        piece.copy_to(&mut bytes[..]);
                        bytes
                    })
                    .collect();
                bytes.truncate(most);
                at += bytes.len() as u64;
                seen.extend(&bytes);
                Ok(bytes.len())
            })
            .expect("moved");
            assert!(seen.iter().copied().eq(0..200), "{most}");
        }
        let none = all(0, &pieces, io::ErrorKind::WriteZero, |_, _| Ok(0));
        assert_eq!(none.map_err(|error| error.kind()), Err(io::ErrorKind::WriteZero));
    }
}
