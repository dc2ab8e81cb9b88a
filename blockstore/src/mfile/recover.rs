//! What a store finds of its blocks when it is opened.
//!
//! A block can be in two slots: a crash came after `put` had made the new copy durable and before
//! it freed the old, or between the two halves of a delete and a new append. Neither was
//! acknowledged, so either copy is right. The best is kept, of equals the one in the lower slot:
//!
//! 1. sealed, and its content has the checksum
//! 2. unsettled
//! 3. sealed, and its content is not what was sealed
//! 4. unproven: only the map names it

use std::collections::BTreeMap;
use std::ops::Range;

use tracing::warn;

use super::files::Files;
use super::slot::{FREE, Found, SEAL_LEN, SlotIndex, classify};
use crate::disk::DiskFile;
use crate::{BlockRef, BlockState, Error, Geometry, Seal};

/// A block and its place.
pub(super) struct Recovered {
    pub(super) block: BlockRef,
    pub(super) slot: SlotIndex,
    pub(super) state: BlockState,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    SealedIntact,
    Unsettled,
    SealedBroken,
    Unproven,
}

#[derive(Clone, Copy)]
struct Copy {
    slot: SlotIndex,
    seal: Option<Seal>,
    proven: bool,
}

/// Reads the tables, and frees the slots of superfluous copies and of entries without a name.
pub(super) fn recover(files: &mut Files) -> Result<Vec<Recovered>, Error> {
    let mut copies: BTreeMap<BlockRef, Vec<Copy>> = BTreeMap::new();
    let mut freed = Vec::new();
    for slot in (0..files.geometry.capacity_blocks).map(SlotIndex) {
        let mut name = [0; BlockRef::LEN];
        let mut entry = FREE;
        files.tables.map.load(slot.offset(BlockRef::LEN), &mut name);
        files.tables.seals.load(slot.offset(SEAL_LEN), &mut entry);
        let (block, seal, proven) = match classify(slot, &name, &entry, files.geometry.block_size) {
            Found::Free => continue,
            Found::Nameless => {
                warn!(slot = slot.0, "a slot lost its block's name and is freed");
                freed.push(slot);
                continue;
            }
            Found::Unproven(block) => {
                warn!(slot = slot.0, %block, "the seal of a block is damaged");
                (block, None, false)
            }
            Found::Open(block) => (block, None, true),
            Found::Sealed(block, seal) => (block, Some(seal), true),
        };
        copies.entry(block).or_default().push(Copy { slot, seal, proven });
    }
    let mut recovered = Vec::with_capacity(copies.len());
    for (block, copies) in copies {
        let (best, others) = best_of(files, copies);
        freed.extend(others);
        let state = best.seal.map_or(BlockState::Unsettled, BlockState::Sealed);
        recovered.push(Recovered { block, slot: best.slot, state });
    }
    free(files, freed)?;
    Ok(recovered)
}

fn best_of(files: &Files, mut copies: Vec<Copy>) -> (Copy, Vec<SlotIndex>) {
    if copies.len() > 1 {
        copies.sort_by_cached_key(|copy| (rank(files, copy), copy.slot));
    }
    let others = copies[1..].iter().map(|copy| copy.slot).collect();
    (copies[0], others)
}

fn rank(files: &Files, copy: &Copy) -> Rank {
    match copy.seal {
        _ if !copy.proven => Rank::Unproven,
        None => Rank::Unsettled,
        // A copy that cannot be read is as good as a broken one.
        Some(seal) => match checksum(&*files.data, files.geometry, copy.slot, seal.length) {
            Ok(crc) if crc == seal.crc => Rank::SealedIntact,
            _ => Rank::SealedBroken,
        },
    }
}

fn free(files: &mut Files, mut slots: Vec<SlotIndex>) -> Result<(), Error> {
    slots.sort();
    let tables = &mut files.tables;
    for slot in &slots {
        tables.seals.store(slot.offset(SEAL_LEN), &FREE);
    }
    match flush_range(slots.iter(), SEAL_LEN) {
        Some(range) => tables.seals.flush(range).map_err(Error::io("sync", &tables.seals_path)),
        None => Ok(()),
    }
}

/// The range of a table that covers the entries of `slots`, which ascend.
pub(super) fn flush_range<'a>(
    mut slots: impl DoubleEndedIterator<Item = &'a SlotIndex>,
    len: usize,
) -> Option<Range<u64>> {
    let first = slots.next()?;
    let last = slots.next_back().unwrap_or(first);
    Some(first.offset(len)..last.offset(len) + len as u64)
}

/// CRC-32 of the first `length` bytes of a slot.
pub(super) fn checksum(
    data: &dyn DiskFile,
    geometry: Geometry,
    slot: SlotIndex,
    length: u32,
) -> std::io::Result<u32> {
    let mut buffer = vec![0; (length as usize).min(1 << 18)];
    let mut crc = crc32fast::Hasher::new();
    let start = slot.0 * u64::from(geometry.block_size);
    let mut done = 0;
    while done < length as usize {
        let part = buffer.len().min(length as usize - done);
        data.read_at(start + done as u64, &mut buffer[..part])?;
        crc.update(&buffer[..part]);
        done += part;
    }
    Ok(crc.finalize())
}
