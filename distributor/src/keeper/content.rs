//! Reading what a store holds, in the forms that requests ask for.

use bytes::Bytes;
use torus_blockstore::{
    BlockIndex, BlockKind, BlockRef, BlockState, BlockStore, ByteRange, INodeIndex, Seal, VolumeId,
};

use super::refuse;
use crate::Refusal;
use crate::protocol::BODY_EXTRA;

/// The bytes of `ranges`, one after another, of a copy that is open or sealed.
pub(super) fn read(
    store: &dyn BlockStore,
    block: BlockRef,
    ranges: &[ByteRange],
) -> Result<Bytes, Refusal> {
    let mut data = prepare(store, block, ranges)?;
    for (range, part) in split(&mut data, ranges) {
        store.read(block, range.offset, part).map_err(refuse)?;
    }
    Ok(data.into())
}

/// As [`read`], if all of it is in memory.
pub(super) fn read_cached(
    store: &dyn BlockStore,
    block: BlockRef,
    ranges: &[ByteRange],
) -> Result<Option<Bytes>, Refusal> {
    let mut data = prepare(store, block, ranges)?;
    for (range, part) in split(&mut data, ranges) {
        if !store.read_cached(block, range.offset, part).map_err(refuse)? {
            return Ok(None);
        }
    }
    Ok(Some(data.into()))
}

/// Room for the answer, after a look at what is asked.
fn prepare(
    store: &dyn BlockStore,
    block: BlockRef,
    ranges: &[ByteRange],
) -> Result<Vec<u8>, Refusal> {
    match store.state(block) {
        None => return Err(Refusal::NoSuchBlock),
        Some(BlockState::Unsettled) => return Err(Refusal::Unsettled),
        Some(BlockState::Open { .. } | BlockState::Sealed(_)) => {}
    }
    let limit = u64::from(store.geometry().block_size) + u64::from(BODY_EXTRA);
    match usize::try_from(answer_length(ranges)) {
        Ok(length) if length as u64 <= limit => Ok(vec![0; length]),
        _ => Err(Refusal::Invalid),
    }
}

/// Bytes that the ranges ask for.
pub(crate) fn answer_length(ranges: &[ByteRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.length)).sum()
}

fn split<'a>(
    mut data: &'a mut [u8],
    ranges: &'a [ByteRange],
) -> impl Iterator<Item = (ByteRange, &'a mut [u8])> {
    ranges.iter().map(move |&range| {
        let (part, rest) = std::mem::take(&mut data).split_at_mut(range.length as usize);
        data = rest;
        (range, part)
    })
}

/// A copy as it is, for recovery and repair; a sealed one only if its content is good.
pub(super) fn fetch(
    store: &dyn BlockStore,
    block: BlockRef,
) -> Result<Option<(BlockState, Bytes)>, Refusal> {
    let Some(state) = store.state(block) else {
        return Ok(None);
    };
    let data = match state {
        BlockState::Open { length } => read_start(store, block, length)?,
        BlockState::Unsettled => read_start(store, block, store.geometry().block_size)?,
        BlockState::Sealed(seal) => verify(store, block, seal)?,
    };
    Ok(Some((state, data)))
}

/// The content of a sealed block, if it is good.
pub(super) fn verify(
    store: &dyn BlockStore,
    block: BlockRef,
    seal: Seal,
) -> Result<Bytes, Refusal> {
    let data = read_start(store, block, seal.length)?;
    if crc32fast::hash(&data) == seal.crc { Ok(data) } else { Err(Refusal::Corrupt) }
}

fn read_start(store: &dyn BlockStore, block: BlockRef, length: u32) -> Result<Bytes, Refusal> {
    let mut data = vec![0; length as usize];
    store.read(block, 0, &mut data).map_err(refuse)?;
    Ok(data.into())
}

/// At most `limit` blocks after `after`, of one volume or of all.
pub(super) fn list(
    store: &dyn BlockStore,
    volume: Option<VolumeId>,
    after: Option<BlockRef>,
    limit: usize,
) -> Vec<(BlockRef, BlockState)> {
    let Some(volume) = volume else {
        return store.list(after, limit);
    };
    // References are ordered by volume first, so that a volume's blocks stand together.
    let mut blocks = store.list(after.max(last_before(volume)), limit);
    blocks.retain(|(block, _)| block.volume == volume);
    blocks
}

/// The greatest reference that is less than all of `volume`'s.
fn last_before(volume: VolumeId) -> Option<BlockRef> {
    Some(BlockRef {
        volume: VolumeId::new(volume.get() - 1)?,
        kind: BlockKind::INode,
        inode: INodeIndex(u64::MAX),
        index: BlockIndex(u64::MAX),
    })
}
