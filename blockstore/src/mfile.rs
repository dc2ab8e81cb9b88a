//! The store of blocks in a preallocated file.
//!
//! Below the data directory:
//!
//! | file                     | content                                                         |
//! |--------------------------|-----------------------------------------------------------------|
//! | `block/data-current.blk` | a slot of one block size for every block, reserved at creation  |
//! | `block/map-current.blk`  | 24 bytes a slot: its [`BlockRef`] (20 GiB in 512 KiB: 960 KiB)   |
//! | `block/seal-current.blk` | 16 bytes a slot: whether it is open or sealed, length, checksum |
//! | `block/superblock`       | what these files are                                            |
//!
//! The tables are described in [`slot`], the superblock in [`superblock`]. The tables are mapped and
//! touched by the leader of a sync only; data goes through positioned reads and writes.
//!
//! # What a sync does, and why in this order
//!
//! 1. `fdatasync` of the data, if any was written. A seal never vouches for bytes that a crash can
//!    still take.
//! 2. The map entries of new blocks, flushed. They may be torn, and nobody believes them yet.
//! 3. The seal entries: open and sealed blocks, and zeros for deleted ones, flushed. Each is within
//!    a sector, so it is there or not, and it vouches for what steps 1 and 2 made durable.
//! 4. Zeros for the old copies of replaced blocks, flushed: only now is the new copy sure.
//! 5. The slots of 3 and 4 that were cleared are free. Not before: else a new block's bytes could
//!    stand under an old block's seal.
//!
//! Steps without work are skipped: append and sync of an existing block costs one `fdatasync`.
//!
//! After any failed step the store is poisoned: the kernel reports a failed write-back once and
//! forgets it, so no later success would mean anything. Opening evicts what the cache may hold
//! without the medium having it.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::disk::DiskFile;
use crate::store::{LARGE_TRANSFER, check_append, check_crc, check_seal, checked_end, readable};
use crate::{BlockRef, BlockState, BlockStore, Error, Geometry, PeerIdentity, Seal};

mod commit;
mod files;
mod index;
mod recover;
mod slot;
mod superblock;

use commit::{GroupCommit, Shared};
use files::Tables;
use index::{Change, FreeSlot, Held, Index, Work};
use recover::{Recovered, checksum, flush_range, recover};
use slot::{FREE, SEAL_LEN, SlotIndex};

/// What a store is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MfileOptions {
    /// Bytes in a block: a power of two from 512 to 2^30, and that of the cluster.
    pub block_size: u32,
    /// Bytes of blocks; the tables come on top. What is left of it by whole blocks is not used.
    pub capacity_bytes: u64,
}

/// The store of blocks in a preallocated file.
pub struct Mfile {
    geometry: Geometry,
    data: Box<dyn DiskFile>,
    data_path: PathBuf,
    tables: Mutex<Tables>,
    state: Mutex<State>,
    /// Told when a claim on a block ends.
    released: Condvar,
    commit: GroupCommit,
    /// Keeps the lock on the data directory.
    _identity: Arc<PeerIdentity>,
}

struct State {
    index: Index,
    poisoned: bool,
    /// Callers that wait for a claim to end.
    waiting: usize,
}

impl Mfile {
    /// Bytes in a block of the store that the data directory holds; `None`: it holds none yet.
    pub fn block_size_of(identity: &PeerIdentity) -> Result<Option<u32>, Error> {
        files::block_size_of(identity)
    }

    /// Opens the store of a data directory; makes it, or makes it larger, if need be.
    ///
    /// Files that are damaged, foreign, of another peer or for another block size are left as they
    /// are, and so is a store that would have to shrink.
    pub fn open(identity: Arc<PeerIdentity>, options: MfileOptions) -> Result<Self, Error> {
        let mut files = files::open(&identity, options)?;
        let geometry = files.geometry;
        let mut index = Index::new(geometry.capacity_blocks);
        for Recovered { block, slot, state } in recover(&mut files)? {
            if state == BlockState::Unsettled {
                let start = slot.0 * u64::from(geometry.block_size);
                let range = start..start + u64::from(geometry.block_size);
                files.data.evict(range).map_err(Error::io("read", &files.data_path))?;
            }
            index.restore(block, slot, state);
        }
        Ok(Self {
            geometry,
            data: files.data,
            data_path: files.data_path,
            tables: Mutex::new(files.tables),
            state: Mutex::new(State { index, poisoned: false, waiting: 0 }),
            released: Condvar::new(),
            commit: GroupCommit::default(),
            _identity: identity,
        })
    }

    /// Where in the data file a block stands, for tests that damage it.
    #[cfg(any(test, feature = "sim"))]
    pub fn place_of(&self, block: BlockRef) -> Option<u64> {
        self.lock().index.get(block).map(|held| self.position(held.slot, 0))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, while nobody claims `block`; an error if the store takes no changes.
    fn lock_idle(&self, block: BlockRef) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.lock();
        while state.index.is_busy(block) {
            state.waiting += 1;
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        if state.poisoned { Err(self.poisoned()) } else { Ok(state) }
    }

    /// Ends a claim with `change`.
    fn finish(&self, change: impl FnOnce(&mut Index)) {
        let mut state = self.lock();
        change(&mut state.index);
        if 0 < state.waiting {
            self.released.notify_all();
        }
    }

    fn poisoned(&self) -> Error {
        Error::Poisoned { path: self.data_path.clone() }
    }

    fn position(&self, slot: SlotIndex, offset: u32) -> u64 {
        slot.0 * u64::from(self.geometry.block_size) + u64::from(offset)
    }

    /// `block`, claimed, for an append at `offset`.
    fn claim_for_append(&self, block: BlockRef, offset: u32) -> Result<Held, Error> {
        loop {
            let mut state = self.lock_idle(block)?;
            if let Some(held) = state.index.get(block) {
                check_append(block, held.state, offset)?;
                state.index.claim(block);
                return Ok(held);
            }
            if offset != 0 {
                return Err(Error::NoSuchBlock { block });
            }
            if let Some(slot) = self.take_slot(&mut state)? {
                return Ok(state.index.create(block, slot));
            }
            drop(state);
            self.sync()?;
        }
    }

    /// Appends; `is_direct`: past the cache.
    fn append_with(
        &self,
        block: BlockRef,
        offset: u32,
        data: &[u8],
        is_direct: bool,
    ) -> Result<(), Error> {
        let length = checked_end(block, offset, data.len(), self.geometry.block_size)?;
        let held = self.claim_for_append(block, offset)?;
        let mut crc = crc32fast::Hasher::new_with_initial(held.crc);
        crc.update(data);
        let crc = crc.finalize();
        let padding = match is_direct {
            true => 0,
            false => {
                padding(held.written, held.in_new_slot, offset..length, self.geometry.block_size)
            }
        };
        let position = self.position(held.slot, offset);
        let written = match padding {
            0 if is_direct => self.data.write_direct_at(position, data),
            0 => self.data.write_at(position, data),
            padding => {
                let mut padded = data.to_vec();
                padded.resize(data.len() + padding as usize, 0);
                self.data.write_at(position, &padded)
            }
        };
        self.finish(|index| match written {
            Ok(()) => index.appended(block, length, crc, length + padding),
            Err(_) => index.release(block),
        });
        written.map_err(Error::io("write", &self.data_path))
    }

    /// A free slot; none, if a sync will free some.
    fn take_slot(&self, state: &mut State) -> Result<Option<FreeSlot>, Error> {
        match state.index.take_slot() {
            None if !state.index.has_retiring() => {
                Err(Error::Full { capacity: self.geometry.capacity_blocks })
            }
            slot => Ok(slot),
        }
    }

    /// Reads with `read`, which says whether it did, from where the block is.
    fn read_with(
        &self,
        block: BlockRef,
        offset: u32,
        length: usize,
        mut read: impl FnMut(u64) -> io::Result<bool>,
    ) -> Result<bool, Error> {
        let missing = Error::NoSuchBlock { block };
        let Some(mut held) = self.lock().index.get(block) else {
            return Err(missing);
        };
        loop {
            let end = u64::from(offset) + length as u64;
            let there = readable(held.state, self.geometry.block_size);
            if u64::from(there) < end {
                return Err(Error::TooShort { block, length: there, end });
            }
            let done = read(self.position(held.slot, offset));
            // Meanwhile the block may have been deleted or replaced, and its slot given to another
            // block, whose bytes these then are.
            match self.lock().index.get(block) {
                Some(now) if now.stamp == held.stamp => {
                    return done.map_err(Error::io("read", &self.data_path));
                }
                Some(now) => held = now,
                None => return Err(missing),
            }
        }
    }

    /// One round of the group commit: the steps in the module's doc.
    fn sync_round(&self) -> Result<(), Error> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let work = self.lock().index.take_work();
        let synced = self.carry_out(&mut tables, &work);
        let mut state = self.lock();
        match &synced {
            Ok(()) => state.index.retired(&work.retiring()),
            Err(_) => state.poisoned = true,
        }
        synced
    }

    fn carry_out(&self, tables: &mut Tables, work: &Work) -> Result<(), Error> {
        if work.data {
            self.data.sync().map_err(Error::io("sync", &self.data_path))?;
        }
        for (slot, block) in &work.names {
            tables.map.store(slot.offset(BlockRef::LEN), &block.encode());
        }
        if let Some(range) = flush_range(work.names.keys(), BlockRef::LEN) {
            tables.map.flush(range).map_err(Error::io("sync", &tables.map_path))?;
        }
        for (&slot, &change) in &work.changes {
            let entry = match change {
                Change::Open(block) => slot::encode(slot, block, None),
                Change::Sealed(block, seal) => slot::encode(slot, block, Some(seal)),
                Change::Clear => FREE,
            };
            tables.seals.store(slot.offset(SEAL_LEN), &entry);
        }
        flush_seals(tables, work.changes.keys())?;
        for slot in &work.replaced {
            tables.seals.store(slot.offset(SEAL_LEN), &FREE);
        }
        flush_seals(tables, work.replaced.iter())
    }
}

/// How many zeros to write behind an append of `range` to a slot that has been written up to
/// `written` for this block.
///
/// To the end of the page in any case: else the page would have to be read first. And the first
/// write to reserved space makes the file system commit a change of its own at the next sync, which
/// costs as much as the sync itself: so in a new slot a small append writes further ahead, and the
/// next ones find written space. A large one is alone with its commit, and zeros would only be more
/// to write.
fn padding(written: u32, in_new_slot: bool, range: Range<u32>, block_size: u32) -> u32 {
    const PAGE: u32 = 4 << 10;
    const SMALL: u32 = 16 << 10;
    const AHEAD: u32 = 128 << 10;
    if range.end <= written {
        return 0;
    }
    let is_small = range.end - range.start <= SMALL;
    let step = if in_new_slot && is_small { AHEAD } else { PAGE };
    range.end.next_multiple_of(step).min(block_size) - range.end
}

fn flush_seals<'a>(
    tables: &mut Tables,
    slots: impl DoubleEndedIterator<Item = &'a SlotIndex>,
) -> Result<(), Error> {
    match flush_range(slots, SEAL_LEN) {
        Some(range) => tables.seals.flush(range).map_err(Error::io("sync", &tables.seals_path)),
        None => Ok(()),
    }
}

impl BlockStore for Mfile {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn used_blocks(&self) -> u64 {
        self.lock().index.len()
    }

    fn append(&self, block: BlockRef, offset: u32, data: &[u8]) -> Result<(), Error> {
        self.append_with(block, offset, data, false)
    }

    fn append_past_cache(&self, block: BlockRef, offset: u32, data: &[u8]) -> Result<(), Error> {
        self.append_with(block, offset, data, LARGE_TRANSFER <= data.len())
    }

    fn read(&self, block: BlockRef, offset: u32, buffer: &mut [u8]) -> Result<(), Error> {
        self.read_with(block, offset, buffer.len(), |position| {
            match buffer.len() {
                LARGE_TRANSFER.. => self.data.read_direct_at(position, buffer),
                _ => self.data.read_at(position, buffer),
            }
            .map(|()| true)
        })?;
        Ok(())
    }

    fn read_cached(&self, block: BlockRef, offset: u32, buffer: &mut [u8]) -> Result<bool, Error> {
        self.read_with(block, offset, buffer.len(), |position| {
            self.data.read_cached_at(position, buffer)
        })
    }

    fn sync(&self) -> Result<(), Error> {
        match self.commit.commit(|| self.sync_round()) {
            Shared::Done => Ok(()),
            Shared::Led(error) => Err(error),
            Shared::Failed => Err(self.poisoned()),
        }
    }

    fn seal(&self, block: BlockRef, seal: Seal) -> Result<(), Error> {
        let slot = {
            let mut state = self.lock_idle(block)?;
            let held = state.index.get(block).ok_or(Error::NoSuchBlock { block })?;
            if check_seal(block, held.state, seal, self.geometry.block_size)? {
                return Ok(());
            }
            if held.state == (BlockState::Open { length: seal.length }) {
                // Known since its last append: reading it all back would be as much work again.
                check_crc(block, seal.crc, held.crc)?;
                state.index.sealed(block, seal);
                return Ok(());
            }
            state.index.claim(block);
            held.slot
        };
        let checked = checksum(&*self.data, self.geometry, slot, seal.length)
            .map_err(Error::io("read", &self.data_path))
            .and_then(|found| check_crc(block, seal.crc, found));
        self.finish(|index| match checked {
            Ok(()) => index.sealed(block, seal),
            Err(_) => index.release(block),
        });
        checked
    }

    fn put(&self, block: BlockRef, data: &[u8]) -> Result<(), Error> {
        checked_end(block, 0, data.len(), self.geometry.block_size)?;
        let slot = loop {
            let mut state = self.lock_idle(block)?;
            let Some(slot) = self.take_slot(&mut state)? else {
                drop(state);
                self.sync()?;
                continue;
            };
            match state.index.get(block) {
                Some(_) => state.index.claim(block),
                None => {
                    state.index.create(block, slot);
                }
            }
            break slot.index;
        };
        let written = self.data.write_direct_at(self.position(slot, 0), data);
        self.finish(|index| match written {
            Ok(()) => index.replaced(block, slot, Seal::of(data)),
            Err(_) => index.not_replaced(block, slot),
        });
        written.map_err(Error::io("write", &self.data_path))
    }

    fn state(&self, block: BlockRef) -> Option<BlockState> {
        self.lock().index.get(block).map(|held| held.state)
    }

    fn delete(&self, block: BlockRef) -> Result<bool, Error> {
        Ok(self.lock_idle(block)?.index.delete(block))
    }

    fn list(&self, after: Option<BlockRef>, limit: usize) -> Vec<(BlockRef, BlockState)> {
        self.lock().index.list(after, limit)
    }
}

#[cfg(test)]
mod tests;
