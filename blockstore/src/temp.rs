//! The store of blocks in memory: for tests and for peers that may forget. What it holds is gone
//! with the process, so every block is open or sealed and never unsettled.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::{check_append, check_crc, check_seal, checked_end, readable};
use crate::{BlockRef, BlockState, BlockStore, Error, Geometry, Seal};

/// The store of blocks in memory.
pub struct Temp {
    geometry: Geometry,
    blocks: Mutex<BTreeMap<BlockRef, Block>>,
}

struct Block {
    data: Vec<u8>,
    seal: Option<Seal>,
}

impl Block {
    fn state(&self) -> BlockState {
        match self.seal {
            Some(seal) => BlockState::Sealed(seal),
            #[expect(clippy::cast_possible_truncation, reason = "at most the block size")]
            None => BlockState::Open { length: self.data.len() as u32 },
        }
    }
}

impl Temp {
    /// An empty store.
    pub fn new(geometry: Geometry) -> Self {
        Self { geometry, blocks: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BlockRef, Block>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_room(&self, used: usize) -> Result<(), Error> {
        let capacity = self.geometry.capacity_blocks;
        if (used as u64) < capacity { Ok(()) } else { Err(Error::Full { capacity }) }
    }
}

impl BlockStore for Temp {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn used_blocks(&self) -> u64 {
        self.lock().len() as u64
    }

    fn append(&self, block: BlockRef, offset: u32, data: &[u8]) -> Result<(), Error> {
        checked_end(block, offset, data.len(), self.geometry.block_size)?;
        let mut blocks = self.lock();
        match blocks.get_mut(&block) {
            Some(held) => {
                check_append(block, held.state(), offset)?;
                held.data.extend_from_slice(data);
            }
            None if offset != 0 => return Err(Error::NoSuchBlock { block }),
            None => {
                self.check_room(blocks.len())?;
                blocks.insert(block, Block { data: data.to_vec(), seal: None });
            }
        }
        Ok(())
    }

    fn read(&self, block: BlockRef, offset: u32, buffer: &mut [u8]) -> Result<(), Error> {
        let blocks = self.lock();
        let held = blocks.get(&block).ok_or(Error::NoSuchBlock { block })?;
        let length = readable(held.state(), self.geometry.block_size);
        let start = offset as usize;
        match held.data.get(start..start + buffer.len()) {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => {
                let end = u64::from(offset) + buffer.len() as u64;
                return Err(Error::TooShort { block, length, end });
            }
        }
        Ok(())
    }

    fn read_cached(&self, block: BlockRef, offset: u32, buffer: &mut [u8]) -> Result<bool, Error> {
        self.read(block, offset, buffer).map(|()| true)
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn seal(&self, block: BlockRef, seal: Seal) -> Result<(), Error> {
        let mut blocks = self.lock();
        let held = blocks.get_mut(&block).ok_or(Error::NoSuchBlock { block })?;
        if check_seal(block, held.state(), seal, self.geometry.block_size)? {
            return Ok(());
        }
        check_crc(block, seal.crc, crc32fast::hash(&held.data[..seal.length as usize]))?;
        held.data.truncate(seal.length as usize);
        held.seal = Some(seal);
        Ok(())
    }

    fn put(&self, block: BlockRef, data: &[u8]) -> Result<(), Error> {
        checked_end(block, 0, data.len(), self.geometry.block_size)?;
        let mut blocks = self.lock();
        if !blocks.contains_key(&block) {
            self.check_room(blocks.len())?;
        }
        blocks.insert(block, Block { data: data.to_vec(), seal: Some(Seal::of(data)) });
        Ok(())
    }

    fn state(&self, block: BlockRef) -> Option<BlockState> {
        self.lock().get(&block).map(Block::state)
    }

    fn delete(&self, block: BlockRef) -> Result<bool, Error> {
        Ok(self.lock().remove(&block).is_some())
    }

    fn list(&self, after: Option<BlockRef>, limit: usize) -> Vec<(BlockRef, BlockState)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let blocks = self.lock();
        let found = blocks.range((start, Bound::Unbounded)).take(limit);
        found.map(|(&block, held)| (block, held.state())).collect()
    }
}
