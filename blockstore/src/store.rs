//! What every store of blocks on one node does, whatever keeps the bytes.
//!
//! A block is *open* while its volume's writer appends to it and *sealed* once its length and
//! checksum are fixed; sealed blocks never change. Methods take `&self` and may be called from any
//! thread; appends to one block come from one caller, in order.

use crate::{BlockRef, Error};

/// The size of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a block.
    pub block_size: u32,
    /// How many blocks the store can hold.
    pub capacity_blocks: u64,
}

/// The fixed length and checksum of a block that takes no more appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Bytes, at most the block size.
    pub length: u32,
    /// CRC-32 (IEEE) of these bytes.
    pub crc: u32,
}

/// What a store knows of a block that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// Being written since this store was opened; `length` bytes are there.
    Open { length: u32 },
    /// Was being written when the store went down: what is there must be found out by reading it
    /// (up to the block size) and settled by a seal. Takes no appends.
    Unsettled,
    /// Complete.
    Sealed(Seal),
}

impl Seal {
    /// The seal of a whole content.
    ///
    /// # Panics
    /// If it is 4 GiB or longer, which no block is.
    pub fn of(content: &[u8]) -> Self {
        assert!(content.len() <= u32::MAX as usize, "a block of {} bytes", content.len());
        #[expect(clippy::cast_possible_truncation, reason = "checked in the line above")]
        let length = content.len() as u32;
        Self { length, crc: crc32fast::hash(content) }
    }
}

/// Appends and reads of so many bytes or more wait for the medium: they go past the cache, if that can
/// be.
pub const LARGE_TRANSFER: usize = 256 << 10;

/// A low-level block storage provider: `mfile` keeps blocks in a preallocated file, `temp` in
/// memory.
pub trait BlockStore: Send + Sync + 'static {
    /// The size of the store.
    fn geometry(&self) -> Geometry;

    /// How many blocks it holds now.
    fn used_blocks(&self) -> u64;

    /// Writes `data` at `offset` of `block`; the block gets a slot when the store does not hold it.
    /// The bytes are durable only after [`sync`](Self::sync).
    ///
    /// Errors: `offset` is not the block's present length, the block is sealed or unsettled, it
    /// would grow past the block size, the store is full, the disk refuses.
    fn append(&self, block: BlockRef, offset: u32, data: &[u8]) -> Result<(), Error>;

    /// As [`append`](Self::append), for bytes that will hardly be read here soon. Large ones go past
    /// the cache, if that can be, and then wait for the medium.
    fn append_past_cache(&self, block: BlockRef, offset: u32, data: &[u8]) -> Result<(), Error> {
        self.append(block, offset, data)
    }

    /// Fills `buffer` from `offset` of `block`.
    ///
    /// Errors: no such block, or the range passes its end ([`BlockState::Open`] and `Sealed`: the
    /// length; `Unsettled`: the block size).
    fn read(&self, block: BlockRef, offset: u32, buffer: &mut [u8]) -> Result<(), Error>;

    /// As [`read`](Self::read) if the bytes can be had without waiting for the disk; `false`, with
    /// anything in the buffer, if not. So a caller that must not block can try first.
    fn read_cached(&self, block: BlockRef, offset: u32, buffer: &mut [u8]) -> Result<bool, Error> {
        let _ = (block, offset, buffer);
        Ok(false)
    }

    /// Returns when everything that was appended, sealed or deleted before the call is on the disk.
    /// Blocks the calling thread; concurrent callers share one sync. After an error the store takes
    /// no more appends and no later sync succeeds.
    fn sync(&self) -> Result<(), Error>;

    /// Fixes the block at `seal.length`, dropping bytes behind it, if its content has `seal.crc`.
    /// Sealing again with the same seal is no error. Durable after [`sync`](Self::sync).
    fn seal(&self, block: BlockRef, seal: Seal) -> Result<(), Error>;

    /// Stores a whole sealed block, in place of what copy there may be: readers, and a crash before
    /// the next [`sync`](Self::sync), see the old or the new.
    fn put(&self, block: BlockRef, data: &[u8]) -> Result<(), Error>;

    /// What the store knows of `block`, or `None` if it does not hold it.
    fn state(&self, block: BlockRef) -> Option<BlockState>;

    /// Forgets `block`; whether there was one. Durable after [`sync`](Self::sync).
    fn delete(&self, block: BlockRef) -> Result<bool, Error>;

    /// At most `limit` blocks after `after` (from the start: `None`), in the order of [`BlockRef`].
    fn list(&self, after: Option<BlockRef>, limit: usize) -> Vec<(BlockRef, BlockState)>;
}

/// Whether a block in this state takes an append at `offset`.
pub(crate) fn check_append(block: BlockRef, state: BlockState, offset: u32) -> Result<(), Error> {
    match state {
        BlockState::Open { length } if length == offset => Ok(()),
        BlockState::Open { length } => Err(Error::Offset { block, length, offset }),
        BlockState::Unsettled => Err(Error::Unsettled { block }),
        BlockState::Sealed(_) => Err(Error::Sealed { block }),
    }
}

/// Whether a block in this state has this seal already; an error if it cannot get it.
pub(crate) fn check_seal(
    block: BlockRef,
    state: BlockState,
    seal: Seal,
    block_size: u32,
) -> Result<bool, Error> {
    if let BlockState::Sealed(Seal { length, crc }) = state {
        let same = state == BlockState::Sealed(seal);
        return if same { Ok(true) } else { Err(Error::SealedOtherwise { block, length, crc }) };
    }
    let length = readable(state, block_size);
    if length < seal.length {
        return Err(Error::TooShort { block, length, end: u64::from(seal.length) });
    }
    Ok(false)
}

/// How many bytes of a block can be read.
pub(crate) fn readable(state: BlockState, block_size: u32) -> u32 {
    match state {
        BlockState::Open { length } => length,
        BlockState::Sealed(seal) => seal.length,
        BlockState::Unsettled => block_size,
    }
}

/// Where bytes written at `offset` end, if that is within a block.
pub(crate) fn checked_end(
    block: BlockRef,
    offset: u32,
    length: usize,
    block_size: u32,
) -> Result<u32, Error> {
    let end = u64::from(offset) + length as u64;
    match u32::try_from(end) {
        Ok(end) if end <= block_size => Ok(end),
        _ => Err(Error::TooLong { block, end, block_size }),
    }
}

pub(crate) fn check_crc(block: BlockRef, expected: u32, found: u32) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Checksum { block, expected, found }) }
}

#[cfg(test)]
pub(crate) mod conformance;
