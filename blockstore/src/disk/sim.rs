//! A disk in memory that crashes and fails on demand, from a seed.
//!
//! Every file has a live image, which reads see, and a durable one. A write makes its 512-byte
//! sectors dirty; a sync copies them. [`SimDisk::after_crash`] makes the disk that a machine finds
//! when it comes up again: of every file any subset of the dirty sectors is new, its length is the
//! old or the new one, and of the changes to a directory since its last sync a prefix happened.
//!
//! A failed sync does as Linux does: some dirty sectors were written, all count as clean, the error
//! is told once, and reads go on seeing what is not on the disk.
//!
//! Every call that changes something is an *operation* and is counted from 1, so that a test can
//! crash or fail at each in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DirLock, Disk, DiskFile, Mapping};

mod image;

use image::{Image, Node, NodeId};

/// Bytes that reach the medium together or not at all.
const SECTOR: u64 = SECTOR_LEN as u64;
const SECTOR_LEN: usize = 512;
/// Unit in which a mapping is flushed.
const PAGE: u64 = 4096;

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device reports an error.
    Io,
    /// The file system is full.
    NoSpace,
}

/// What becomes of a write that the disk reports as done and has not done as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Astray {
    /// It never reaches the medium; the cache shows it until it is evicted.
    Lost,
    /// It overwrites what stands so many bytes further on, counted round the file.
    Misdirected { by: u64 },
}

impl Fault {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => libc::EIO,
            Self::NoSpace => libc::ENOSPC,
        })
    }
}

/// How often the disk was asked for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    pub reads: u64,
    pub writes: u64,
    pub syncs: u64,
    pub flushes: u64,
}

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    image: Image,
    capacity: u64,
    locked: BTreeSet<PathBuf>,
    random: Random,
    counts: SimCounts,
    operations: u64,
    crash_after: Option<u64>,
    faults: BTreeMap<u64, Fault>,
    faults_from: Option<(u64, Fault)>,
    read_faults: BTreeSet<u64>,
    /// By the number of the write.
    astray: BTreeMap<u64, Astray>,
}

impl SimDisk {
    /// An empty disk of `capacity` bytes.
    pub fn new(seed: u64, capacity: u64) -> Self {
        Self::with_image(Image::default(), seed, capacity)
    }

    fn with_image(image: Image, seed: u64, capacity: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            image,
            capacity,
            locked: BTreeSet::new(),
            random: Random(seed),
            counts: SimCounts::default(),
            operations: 0,
            crash_after: None,
            faults: BTreeMap::new(),
            faults_from: None,
            read_faults: BTreeSet::new(),
            astray: BTreeMap::new(),
        })))
    }

    /// The disk in the form that the stores take.
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Calls so far.
    pub fn counts(&self) -> SimCounts {
        self.state().counts
    }

    /// Lets `operations` more operations happen; then the machine is off and every call fails.
    pub fn crash_after(&self, operations: u64) {
        let mut state = self.state();
        state.crash_after = Some(state.operations + operations);
    }

    /// Whether the machine is off: every call fails.
    pub fn is_off(&self) -> bool {
        self.state().off()
    }

    /// The disk as the next process finds it after this one was killed: nothing is lost, and what
    /// was not synced still is not. The killed process, which has this handle, reaches it no more.
    pub fn after_kill(&self) -> Self {
        let state = self.state();
        let after = Self::with_image(state.image.clone(), state.random.0, state.capacity);
        drop(state);
        self.power_off();
        after
    }

    /// Cuts the power: every later call fails.
    pub fn power_off(&self) {
        let mut state = self.state();
        state.crash_after = Some(0);
        state.operations += 1;
    }

    /// Sectors whose newest content a crash may take.
    pub fn unsynced_sectors(&self) -> usize {
        self.state().image.unsynced_sectors()
    }

    /// Lets the `nth` write from now, counted from 1, go astray.
    pub fn go_astray(&self, nth: u64, how: Astray) {
        let mut state = self.state();
        let write = state.counts.writes + nth;
        state.astray.insert(write, how);
    }

    /// Fails the `nth` operation from now, counted from 1.
    pub fn fail(&self, nth: u64, fault: Fault) {
        let mut state = self.state();
        let operation = state.operations + nth;
        state.faults.insert(operation, fault);
    }

    /// Fails every operation from the `nth` from now on.
    pub fn fail_from(&self, nth: u64, fault: Fault) {
        let mut state = self.state();
        state.faults_from = Some((state.operations + nth, fault));
    }

    /// Fails the `nth` read from now, counted from 1.
    pub fn fail_read(&self, nth: u64) {
        let mut state = self.state();
        let read = state.counts.reads + nth;
        state.read_faults.insert(read);
    }

    /// Lifts all faults that are still to come.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.faults_from = None;
        state.read_faults.clear();
        state.astray.clear();
    }

    /// Inverts a byte of a file, in cache and on the medium, as decay does.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn corrupt(&self, path: &Path, offset: u64) {
        let mut state = self.state();
        let id = state.image.find(path).unwrap_or_else(|| absent(path));
        state.image.file_mut(id).corrupt(offset);
    }

    /// The content of a file as a reader sees it, whatever the faults.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        let file = state.image.file(state.image.find(path).unwrap_or_else(|| absent(path)));
        let mut bytes = vec![0; usize::try_from(file.length).unwrap_or(usize::MAX)];
        file.read(0, &mut bytes);
        bytes
    }

    /// The disk as the machine would find it after losing power now: another one, without faults
    /// and locks; this one goes on.
    pub fn after_crash(&self, seed: u64) -> Self {
        let state = self.state();
        let mut random = Random(seed);
        // Seeds 0 and 1 are the extremes that chance hardly meets.
        let keep = match seed {
            0 => Keep::Nothing,
            1 => Keep::Everything,
            _ => Keep::Some,
        };
        let image = state.image.after_crash(&mut |choices| match keep {
            Keep::Nothing => 0,
            Keep::Everything => choices - 1,
            Keep::Some => random.below(choices),
        });
        Self::with_image(image, seed, state.capacity)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Keep {
    Nothing,
    Everything,
    Some,
}

#[expect(clippy::panic, reason = "a test that names a file that is not there cannot go on")]
fn absent(path: &Path) -> NodeId {
    panic!("{} is not on the simulated disk", path.display())
}

impl State {
    fn off(&self) -> bool {
        self.crash_after.is_some_and(|last| self.operations > last)
    }

    fn power(&self) -> io::Result<()> {
        if self.off() { Err(io::Error::other("the simulated machine is off")) } else { Ok(()) }
    }

    /// Counts an operation. `Ok(Some)`: it is to fail, after doing a part of its work.
    fn operate(&mut self) -> io::Result<Option<Fault>> {
        self.operations += 1;
        self.power()?;
        let lasting = self.faults_from.filter(|&(first, _)| first <= self.operations);
        Ok(self.faults.get(&self.operations).copied().or(lasting.map(|(_, fault)| fault)))
    }

    /// As [`operate`](Self::operate), for operations that fail without an effect.
    fn operate_wholly(&mut self) -> io::Result<()> {
        self.operate()?.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn read(&mut self) -> io::Result<()> {
        self.power()?;
        self.counts.reads += 1;
        if self.read_faults.contains(&self.counts.reads) { Err(Fault::Io.error()) } else { Ok(()) }
    }

    fn directory(&self, path: &Path) -> io::Result<NodeId> {
        let id = self.image.find(path).ok_or(io::ErrorKind::NotFound)?;
        match self.image.node(id) {
            Node::Dir(_) => Ok(id),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Makes a range of a file durable, or fails as Linux does.
    fn sync(&mut self, id: NodeId, range: Range<u64>, fault: Option<Fault>) -> io::Result<()> {
        let random = &mut self.random;
        let file = self.image.file_mut(id);
        match fault {
            None => file.sync(range, &mut || true),
            Some(_) => file.sync(range, &mut || random.below(2) == 1),
        }
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate_wholly()?;
        state.image.create_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        state.power()?;
        Ok(state.image.find(path).is_some())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.operate_wholly()?;
        let id = state.image.create_file(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), id }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        state.power()?;
        let id = state.image.find(path).ok_or(io::ErrorKind::NotFound)?;
        match state.image.node(id) {
            Node::File(_) => Ok(Box::new(SimFile { disk: self.clone(), id })),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate_wholly()?;
        state.image.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate_wholly()?;
        state.image.rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operate_wholly()?;
        let id = state.directory(path)?;
        state.image.sync_dir(id);
        Ok(())
    }

    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let mut state = self.state();
        state.power()?;
        state.directory(path)?;
        if !state.locked.insert(path.to_owned()) {
            return Ok(DirLock::Taken { pid: None });
        }
        Ok(DirLock::Held(Box::new(SimLock { disk: self.clone(), path: path.to_owned() })))
    }

    fn free_space(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state();
        state.power()?;
        Ok(state.capacity.saturating_sub(state.image.used()))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locked.remove(&self.path);
    }
}

struct SimFile {
    disk: SimDisk,
    id: NodeId,
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.power()?;
        Ok(state.image.file(self.id).length)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.read()?;
        let file = state.image.file(self.id);
        if file.length < offset.saturating_add(buffer.len() as u64) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.read(offset, buffer);
        Ok(())
    }

    fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        self.read_at(offset, buffer).map(|()| true)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.counts.writes += 1;
        let fault = state.operate()?;
        let end = offset.saturating_add(data.len() as u64);
        let growth = end.saturating_sub(state.image.file(self.id).length);
        let full = state.image.used().saturating_add(growth) > state.capacity;
        match fault.or(full.then_some(Fault::NoSpace)) {
            None => {
                let write = state.counts.writes;
                match state.astray.remove(&write) {
                    None => state.image.file_mut(self.id).write(offset, data),
                    Some(Astray::Lost) => state.image.file_mut(self.id).write_lost(offset, data),
                    Some(Astray::Misdirected { by }) => {
                        let file = state.image.file_mut(self.id);
                        let elsewhere = (offset + by) % file.length.max(1);
                        file.write(elsewhere, data);
                    }
                }
                Ok(())
            }
            Some(fault) => {
                let within = usize::try_from(growth).unwrap_or(usize::MAX).min(data.len());
                let writable = data.len() - within;
                let part = state.random.below(writable as u64 + 1);
                let part = usize::try_from(part).unwrap_or(writable);
                state.image.file_mut(self.id).write(offset, &data[..part]);
                Err(fault.error())
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.counts.syncs += 1;
        let fault = state.operate()?;
        state.sync(self.id, 0..u64::MAX, fault)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate_wholly()?;
        let growth = length.saturating_sub(state.image.file(self.id).length);
        if state.image.used().saturating_add(growth) > state.capacity {
            return Err(Fault::NoSpace.error());
        }
        let file = state.image.file_mut(self.id);
        file.length = file.length.max(length);
        Ok(())
    }

    fn evict(&self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.disk.state();
        state.power()?;
        state.image.file_mut(self.id).evict(range);
        Ok(())
    }

    fn map(&self, length: u64) -> io::Result<Box<dyn Mapping>> {
        if self.length()? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Box::new(SimMapping { disk: self.disk.clone(), id: self.id, length }))
    }
}

struct SimMapping {
    disk: SimDisk,
    id: NodeId,
    length: u64,
}

impl SimMapping {
    fn check(&self, offset: u64, length: usize) {
        let end = offset.saturating_add(length as u64);
        assert!(end <= self.length, "byte {end} of a mapping of {} bytes", self.length);
    }
}

impl Mapping for SimMapping {
    fn load(&self, offset: u64, buffer: &mut [u8]) {
        self.check(offset, buffer.len());
        self.disk.state().image.file(self.id).read(offset, buffer);
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        self.check(offset, bytes.len());
        let mut state = self.disk.state();
        // Memory cannot fail, but a machine that is off stores nothing.
        state.operations += 1;
        if !state.off() {
            state.image.file_mut(self.id).write(offset, bytes);
        }
    }

    fn flush(&mut self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.disk.state();
        state.counts.flushes += 1;
        let fault = state.operate()?;
        let pages = range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE);
        state.sync(self.id, pages, fault)
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % limit
    }
}

#[cfg(test)]
mod tests;
