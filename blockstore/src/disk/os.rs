//! The disk of the operating system.
//!
//! Data goes through positioned reads and writes, so that a disk error is an error of one request;
//! only the small tables are mapped.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use memmap2::{MmapMut, MmapOptions};

use super::direct::Direct;
use super::{DirLock, Disk, DiskFile, Mapping};

/// Files and directories of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl OsDisk {
    /// The disk in the form that the stores take.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

impl Disk for OsDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new("."));
        self.create_dir(parent)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            created => created.and_then(|()| self.sync_dir(parent)),
        }
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(OsFile { file, direct: OnceLock::new() }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(OsFile { file, direct: OnceLock::new() }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path)?.sync_all()
    }

    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        // The directory itself is locked: a lock file would be left behind in a directory that
        // turns out to be someone else's.
        let dir = File::open(path)?;
        // SAFETY: the descriptor belongs to `dir`, which is open.
        let locked = unsafe { libc::flock(dir.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        if locked == 0 {
            return Ok(DirLock::Held(Box::new(dir)));
        }
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::WouldBlock {
            return Ok(DirLock::Taken { pid: lock_holder(&dir) });
        }
        Err(error)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        let mut space = MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the path ends in a zero byte and the kernel fills the struct before it returns 0.
        let space = unsafe {
            if libc::statvfs(path.as_ptr(), space.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            space.assume_init()
        };
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// The process that the kernel names as the holder of the lock on `dir`.
fn lock_holder(dir: &File) -> Option<u32> {
    let metadata = dir.metadata().ok()?;
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip_while(|&field| field != "FLOCK");
        let pid = fields.nth(3)?;
        if fields.next()? == file { pid.parse().ok() } else { None }
    })
}

struct OsFile {
    file: File,
    /// Opened when it is first wanted; `None`: it cannot be had.
    direct: OnceLock<Option<Direct>>,
}

impl DiskFile for OsFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_direct_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        let Some((direct, whole)) = self.direct(offset..end) else {
            return self.read_at(offset, buffer);
        };
        let (before, rest) = buffer.split_at_mut(index(whole.start - offset));
        let (inside, behind) = rest.split_at_mut(index(whole.end - whole.start));
        direct.read_at(whole.start, inside)?;
        self.read_at(offset, before)?;
        self.read_at(whole.end, behind)
    }

    fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let offset = signed(offset)?;
        // SAFETY: `part` describes `buffer`, which outlives the call and is ours to write.
        let read = unsafe {
            libc::preadv2(self.file.as_raw_fd(), &raw const part, 1, offset, libc::RWF_NOWAIT)
        };
        if read >= 0 {
            return Ok(usize::try_from(read).is_ok_and(|read| read == buffer.len()));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Not cached; or a file system that cannot tell.
            Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EINTR) => {
                Ok(false)
            }
            _ => Err(error),
        }
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn write_direct_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let Some((direct, whole)) = self.direct(offset..end) else {
            return self.write_at(offset, data);
        };
        let (before, rest) = data.split_at(index(whole.start - offset));
        let (inside, behind) = rest.split_at(index(whole.end - whole.start));
        direct.write_at(whole.start, inside)?;
        // The edges share pages with what stands beside them.
        self.write_at(offset, before)?;
        self.write_at(whole.end, behind)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        if self.length()? >= length {
            return Ok(());
        }
        let length = signed(length)?;
        loop {
            // SAFETY: the descriptor belongs to the open file.
            match unsafe { libc::posix_fallocate(self.file.as_raw_fd(), 0, length) } {
                0 => return Ok(()),
                libc::EINTR => {}
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    fn evict(&self, range: Range<u64>) -> io::Result<()> {
        let (start, length) = (signed(range.start)?, signed(range.end - range.start)?);
        // SAFETY: the descriptor belongs to the open file; the call changes no byte of it.
        let error = unsafe {
            libc::posix_fadvise(self.file.as_raw_fd(), start, length, libc::POSIX_FADV_DONTNEED)
        };
        if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    fn map(&self, length: u64) -> io::Result<Box<dyn Mapping>> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        // SAFETY: the file is as long as the mapping and lies in a directory that `lock_dir` took
        // for this process, which never shortens it; nobody else maps it.
        let map = unsafe { MmapOptions::new().len(length).map_mut(&self.file)? };
        Ok(Box::new(OsMapping(map)))
    }
}

impl OsFile {
    /// The way past the cache, and the part of `range` that can go there.
    fn direct(&self, range: Range<u64>) -> Option<(&Direct, Range<u64>)> {
        let direct = self.direct.get_or_init(|| Direct::open(&self.file)).as_ref()?;
        let whole = direct.whole(range);
        (!whole.is_empty()).then_some((direct, whole))
    }
}

struct OsMapping(MmapMut);

impl Mapping for OsMapping {
    fn load(&self, offset: u64, buffer: &mut [u8]) {
        let start = index(offset);
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        let start = index(offset);
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn flush(&mut self, range: Range<u64>) -> io::Result<()> {
        self.0.flush_range(index(range.start), index(range.end - range.start))
    }
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(io::Error::other)
}

/// An offset in a mapping; past the address space it is past every mapping too.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once_and_the_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let first = OsDisk.lock_dir(dir.path()).unwrap();
        assert!(matches!(first, DirLock::Held(_)));
        match OsDisk.lock_dir(dir.path()).unwrap() {
            // The kernel of some sandboxes shows no locks.
            DirLock::Taken { pid } => assert!(pid.is_none() || pid == Some(std::process::id())),
            DirLock::Held(_) => panic!("locked twice"),
        }
        drop(first);
        assert!(matches!(OsDisk.lock_dir(dir.path()).unwrap(), DirLock::Held(_)));
    }

    #[test]
    fn allocation_reserves_the_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsDisk.create(&path).unwrap();
        file.allocate(1 << 20).unwrap();
        assert_eq!(file.length().unwrap(), 1 << 20);
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
    }

    #[test]
    fn what_goes_past_the_cache_is_there_with_its_edges() {
        let dir = crate::disk::direct::tests::dir_on_disk();
        let file = OsDisk.create(&dir.path().join("file")).unwrap();
        let content: Vec<u8> =
            (0_u32..300_000).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
        file.write_direct_at(5000, &content).unwrap();
        file.write_direct_at(5512, &content[512..100_000]).unwrap();
        file.write_direct_at(5100, &content[100..200]).unwrap();
        file.sync().unwrap();
        let mut found = vec![0; content.len()];
        file.read_direct_at(5000, &mut found).unwrap();
        assert!(found == content);
        file.read_at(5000, &mut found).unwrap();
        assert!(found == content);
        assert!(file.read_direct_at(5001, &mut found).is_err(), "the file ends before");
    }

    #[test]
    fn cached_reads_answer_or_decline() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("file")).unwrap();
        file.write_at(0, &[7; 8192]).unwrap();
        let mut buffer = [0; 8192];
        if file.read_cached_at(0, &mut buffer).unwrap() {
            assert_eq!(buffer, [7; 8192]);
        }
        assert!(!file.read_cached_at(4096, &mut buffer).unwrap(), "past the end");
    }
}
