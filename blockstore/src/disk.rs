//! What the stores need of the operating system, so that a simulated disk can take its place.
//!
//! [`OsDisk`] is the real one. `SimDisk` (feature `sim`) keeps a live and a durable image, loses
//! un-synced sectors at a crash and fails on demand: whatever a store relies on must be said here,
//! because that is what the simulated disk grants and no more.
//!
//! Durability: bytes of a file after [`DiskFile::sync`], of a mapping after [`Mapping::flush`],
//! names in a directory after [`Disk::sync_dir`]. Before that any 512-byte sector of them may
//! survive a crash, in any combination, and so may a prefix of the changes to a directory.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::Error;

mod direct;
mod os;
#[cfg(any(test, feature = "sim"))]
mod sim;

pub use os::OsDisk;
#[cfg(any(test, feature = "sim"))]
pub use sim::{Astray, Fault, SimCounts, SimDisk};

/// Directories and names.
pub trait Disk: Send + Sync + 'static {
    /// Creates a directory and what is missing above it, durably. No error if it is there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Whether there is a file or directory.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Creates an empty file for reading and writing; an error if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Removes a file, or a directory with all that is in it. No error if there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Moves a file or directory within its directory, in place of the file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes a directory for this process alone, until the lock is dropped.
    fn lock_dir(&self, path: &Path) -> io::Result<DirLock>;

    /// Bytes that the file system of `path` can still take.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
}

/// The answer of [`Disk::lock_dir`].
pub enum DirLock {
    /// Ours until dropped.
    Held(Box<dyn Send + Sync>),
    /// Another opener has it: this process, if it can be told.
    Taken { pid: Option<u32> },
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Fills `buffer`; an error if the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// As [`read_at`](Self::read_at) if that needs no I/O; `false`, with anything in the buffer, if
    /// it does.
    fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool>;

    /// Writes all of `data`. After an error any part of it may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// As [`write_at`](Self::write_at), for much data that will hardly be read soon: past the cache,
    /// if that can be. Takes as long as the medium needs.
    fn write_direct_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(offset, data)
    }

    /// As [`read_at`](Self::read_at), for much data: past the cache, if that can be.
    fn read_direct_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buffer)
    }

    /// Makes content and length durable (`fdatasync`). After an error nothing is known of what was
    /// written since the last success, and a later success says nothing about it either.
    fn sync(&self) -> io::Result<()>;

    /// Grows the file to `length` with zeros and reserves the space, so that writing there cannot
    /// fail for want of it.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Forgets cached bytes that are not waiting to be written: reading asks the medium again.
    fn evict(&self, range: Range<u64>) -> io::Result<()>;

    /// Maps the first `length` bytes, which the file has, into memory.
    fn map(&self, length: u64) -> io::Result<Box<dyn Mapping>>;
}

/// The beginning of a file, mapped into memory. Offsets past its end are a caller's fault: they
/// panic.
pub trait Mapping: Send + Sync {
    /// Copies bytes out.
    fn load(&self, offset: u64, buffer: &mut [u8]);

    /// Copies bytes in. From now on they may reach the medium at any time.
    fn store(&mut self, offset: u64, bytes: &[u8]);

    /// Makes a range durable; after an error see [`DiskFile::sync`].
    fn flush(&mut self, range: Range<u64>) -> io::Result<()>;
}

/// Gives `path` the content `bytes`, durably: a crash leaves the old file or the new one.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fresh = fresh_name(path);
    disk.remove(&fresh).map_err(Error::io("remove", &fresh))?;
    write_file(disk, &fresh, bytes)?;
    disk.rename(&fresh, path).map_err(Error::io("rename", &fresh))?;
    let parent = path.parent().unwrap_or(Path::new("."));
    disk.sync_dir(parent).map_err(Error::io("sync", parent))
}

/// Where the successor of `path` is made before it takes that name.
pub(crate) fn fresh_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Creates `path` with the content `bytes`; the content is durable, the name not yet.
pub(crate) fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = disk.create(path).map_err(Error::io("create", path))?;
    file.write_at(0, bytes).map_err(Error::io("write", path))?;
    file.sync().map_err(Error::io("sync", path))
}

/// The whole content of a file of at most `limit` bytes.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let file = disk.open(path).map_err(Error::io("open", path))?;
    let length = file.length().map_err(Error::io("measure", path))?;
    let length = usize::try_from(length).ok().filter(|&length| length <= limit);
    let Some(length) = length else {
        return Err(Error::Damaged { path: path.to_owned(), what: "it is too long" });
    };
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}
