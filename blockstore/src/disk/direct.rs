//! Large transfers past the page cache (`O_DIRECT`), where the file system can do that.
//!
//! A log never writes twice to the same place, so through the cache each large write takes fresh
//! pages, which are dearer than the transfer itself: 0.2 ms of CPU for each MiB at best, and 2 ms
//! and more on virtual machines whose free memory is the host's until it is touched. Past the cache
//! it is 0.1 ms, and what others read stays in memory.
//!
//! Offsets and lengths must be whole logical blocks; what is not goes through the cache. The kernel
//! keeps both ways coherent: it writes back and drops the cached pages of a range first.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapMut;

/// Bytes of a transfer at most, and of a buffer.
const BUFFER: usize = 1 << 20;
/// Buffers that are kept for the next transfers. Used memory is cheap, fresh memory is not.
const KEPT: usize = 8;

/// A second way into an open file.
pub(super) struct Direct {
    file: File,
    /// Of offsets and lengths, in bytes.
    alignment: u64,
    /// On page boundaries.
    buffers: Mutex<Vec<MmapMut>>,
}

impl Direct {
    /// `None` if the file system has no such transfers, or does not say what they have to look
    /// like (Linux before 6.1).
    pub(super) fn open(file: &File) -> Option<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(path).ok()?;
        let alignment = alignment(&file)?;
        Some(Self { file, alignment, buffers: Mutex::default() })
    }

    /// The part of `range` that consists of whole logical blocks.
    pub(super) fn whole(&self, range: Range<u64>) -> Range<u64> {
        let start = range.start.next_multiple_of(self.alignment);
        let end = range.end - range.end % self.alignment;
        start..end.max(start)
    }

    /// Writes `data` at an offset; both are whole logical blocks.
    pub(super) fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with_buffer(|buffer| {
            let mut at = offset;
            for part in data.chunks(BUFFER) {
                buffer[..part.len()].copy_from_slice(part);
                self.file.write_all_at(&buffer[..part.len()], at)?;
                at += part.len() as u64;
            }
            Ok(())
        })
    }

    /// Fills `data` from an offset; both are whole logical blocks.
    pub(super) fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.with_buffer(|buffer| {
            let mut at = offset;
            for part in data.chunks_mut(BUFFER) {
                self.file.read_exact_at(&mut buffer[..part.len()], at)?;
                part.copy_from_slice(&buffer[..part.len()]);
                at += part.len() as u64;
            }
            Ok(())
        })
    }

    fn with_buffer<T>(&self, work: impl FnOnce(&mut [u8]) -> io::Result<T>) -> io::Result<T> {
        let lock = || self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = lock().pop();
        let mut buffer = kept.map_or_else(|| MmapMut::map_anon(BUFFER), Ok)?;
        let done = work(&mut buffer);
        let mut buffers = lock();
        if buffers.len() < KEPT {
            buffers.push(buffer);
        }
        done
    }
}

/// What offsets and lengths of direct transfers must be multiples of, if pages of memory will do.
fn alignment(file: &File) -> Option<u64> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is empty and ends in a zero byte, and the kernel fills the struct before it
    // returns 0; all zeros are a valid value of it too.
    let found = unsafe {
        let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
        let (file, mask) = (file.as_raw_fd(), libc::STATX_DIOALIGN);
        if libc::statx(file, path, flags, mask, found.as_mut_ptr()) != 0 {
            return None;
        }
        found.assume_init()
    };
    let (memory, offset) = (found.stx_dio_mem_align, found.stx_dio_offset_align);
    let is_known = found.stx_mask & libc::STATX_DIOALIGN != 0 && offset != 0;
    (is_known && memory <= 4096).then_some(offset.into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Beside this program: what is below /tmp may be in memory, without direct transfers.
    pub(in crate::disk) fn dir_on_disk() -> tempfile::TempDir {
        let program = std::env::current_exe().unwrap();
        tempfile::tempdir_in(program.parent().unwrap()).unwrap()
    }

    /// Content without a period that a wrong place could hide behind.
    fn content(length: usize) -> Vec<u8> {
        let mixed = |at: usize| (at as u64).wrapping_mul(0x9e37_79b9) >> 24;
        (0..length).map(|at| mixed(at).to_le_bytes()[0]).collect()
    }

    #[test]
    fn both_ways_into_a_file_see_the_same_bytes() {
        let dir = dir_on_disk();
        let file = File::create_new(dir.path().join("file")).unwrap();
        // A file system that has none is nothing to fail for: everything goes through the cache.
        let Some(direct) = Direct::open(&file) else { return };
        let file = File::options().read(true).write(true).open(dir.path().join("file")).unwrap();
        let (step, bytes) = (direct.alignment, content(3 << 20));
        file.write_all_at(&[7; 8192], 100).unwrap();
        direct.write_at(step, &bytes).unwrap();
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, step).unwrap();
        assert!(found == bytes);
        file.write_all_at(&[9; 10], step + 5000).unwrap();
        direct.read_at(step, &mut found).unwrap();
        assert!(found[..5000] == bytes[..5000] && found[5000..5010] == [9; 10]);
        assert!(found[5010..] == bytes[5010..]);
        assert_eq!(lock_len(&direct), 1);
    }

    fn lock_len(direct: &Direct) -> usize {
        direct.buffers.lock().unwrap().len()
    }

    #[test]
    fn whole_blocks_lie_within() {
        let file = tempfile::tempfile().unwrap();
        let direct = Direct { file, alignment: 512, buffers: Mutex::default() };
        assert_eq!(direct.whole(512..2048), 512..2048);
        assert_eq!(direct.whole(1..2047), 512..1536);
        assert_eq!(direct.whole(513..1000), 1024..1024);
    }
}
