//! Which block is in which slot, which slots are free, and what the next sync has to write.
//!
//! Pure: no I/O and no lock. The store calls it under a short lock and carries out the [`Work`].
//!
//! Invariants: a slot is free, or holds one block, or retires: its seal entry is to be cleared, and
//! only when that is durable is it free again. So bytes of a new block never stand under the seal
//! of an old one. (Records in a slot name their own block, but the blocks of an INode do not.)

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::slot::SlotIndex;
use crate::{BlockRef, BlockState, Seal};

/// A block in the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) slot: SlotIndex,
    pub(super) state: BlockState,
    /// Differs whenever a block comes into a slot, so that a reader knows that it read the block
    /// it looked up.
    pub(super) stamp: u64,
    /// Somebody appends, seals or replaces; others wait.
    pub(super) busy: bool,
    /// Its first bytes are not written yet: not visible.
    pub(super) fresh: bool,
    /// How far the slot has been written to for this block.
    pub(super) written: u32,
    /// As far as is known, nothing was written to the slot before.
    pub(super) in_new_slot: bool,
    /// CRC-32 (IEEE) of an open block's content, as it was handed to the disk.
    pub(super) crc: u32,
}

/// A slot that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreeSlot {
    pub(super) index: SlotIndex,
    /// As far as is known, nothing was ever written there.
    pub(super) is_new: bool,
}

/// What a slot's entry in the seal table becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Open(BlockRef),
    Sealed(BlockRef, Seal),
    Clear,
}

/// What the next sync has to do.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Bytes of blocks were written.
    pub(super) data: bool,
    /// Map entries.
    pub(super) names: BTreeMap<SlotIndex, BlockRef>,
    /// Seal entries, after data and map.
    pub(super) changes: BTreeMap<SlotIndex, Change>,
    /// Slots with the old copies of replaced blocks: cleared after the changes.
    pub(super) replaced: BTreeSet<SlotIndex>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    capacity: u64,
    blocks: BTreeMap<BlockRef, Held>,
    /// Slots from here on were never used.
    unused_from: u64,
    /// Free slots below that.
    returned: BTreeSet<SlotIndex>,
    retiring: u64,
    work: Work,
    stamps: u64,
}

impl Index {
    pub(super) fn new(capacity: u64) -> Self {
        Self { capacity, ..Self::default() }
    }

    /// Takes in what was found at the start; slots ascend or not, none twice.
    pub(super) fn restore(&mut self, block: BlockRef, slot: SlotIndex, state: BlockState) {
        let skipped = (self.unused_from..slot.0).map(SlotIndex);
        self.returned.extend(skipped);
        self.unused_from = self.unused_from.max(slot.0 + 1);
        self.returned.remove(&slot);
        self.insert(block, slot, state, false);
    }

    pub(super) fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// The block as readers may see it.
    pub(super) fn get(&self, block: BlockRef) -> Option<Held> {
        self.blocks.get(&block).copied().filter(|held| !held.fresh)
    }

    pub(super) fn is_busy(&self, block: BlockRef) -> bool {
        self.blocks.get(&block).is_some_and(|held| held.busy)
    }

    pub(super) fn list(
        &self,
        after: Option<BlockRef>,
        limit: usize,
    ) -> Vec<(BlockRef, BlockState)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let visible = self.blocks.range((start, Bound::Unbounded)).filter(|(_, held)| !held.fresh);
        visible.take(limit).map(|(&block, held)| (block, held.state)).collect()
    }

    /// Takes a free slot, the lowest of those used before, so that the file is used densely.
    pub(super) fn take_slot(&mut self) -> Option<FreeSlot> {
        if let Some(index) = self.returned.pop_first() {
            return Some(FreeSlot { index, is_new: false });
        }
        if self.unused_from == self.capacity {
            return None;
        }
        self.unused_from += 1;
        Some(FreeSlot { index: SlotIndex(self.unused_from - 1), is_new: true })
    }

    /// Whether a sync will free slots.
    pub(super) fn has_retiring(&self) -> bool {
        0 < self.retiring
    }

    /// Gives back a slot that no sync has seen.
    pub(super) fn return_slot(&mut self, slot: SlotIndex) {
        assert!(self.returned.insert(slot), "slot {} is freed twice", slot.0);
    }

    /// Marks a block as being changed by the caller alone.
    pub(super) fn claim(&mut self, block: BlockRef) {
        let held = self.held(block);
        assert!(!held.busy, "{block} is claimed twice");
        held.busy = true;
    }

    /// Ends a claim without a change; a block that never got its first bytes goes.
    pub(super) fn release(&mut self, block: BlockRef) {
        let held = self.held(block);
        held.busy = false;
        if held.fresh {
            let slot = held.slot;
            self.blocks.remove(&block);
            self.return_slot(slot);
        }
    }

    /// Puts a new block into a slot, invisible and claimed.
    pub(super) fn create(&mut self, block: BlockRef, slot: FreeSlot) -> Held {
        self.insert(block, slot.index, BlockState::Open { length: 0 }, true);
        self.claim(block);
        let held = self.held(block);
        held.in_new_slot = slot.is_new;
        *held
    }

    /// A claimed block has `length` bytes now, with this checksum; its slot was written up to
    /// `written`.
    pub(super) fn appended(&mut self, block: BlockRef, length: u32, crc: u32, written: u32) {
        let held = self.held(block);
        held.written = held.written.max(written);
        held.crc = crc;
        held.state = BlockState::Open { length };
        held.busy = false;
        let (slot, was_fresh) = (held.slot, std::mem::take(&mut held.fresh));
        self.work.data = true;
        if was_fresh {
            self.work.names.insert(slot, block);
            self.work.changes.insert(slot, Change::Open(block));
        }
    }

    /// A claimed block is sealed; its content is as durable as the last sync made it.
    pub(super) fn sealed(&mut self, block: BlockRef, seal: Seal) {
        let held = self.held(block);
        held.state = BlockState::Sealed(seal);
        held.busy = false;
        let slot = held.slot;
        self.work.changes.insert(slot, Change::Sealed(block, seal));
    }

    /// The content of a claimed block is now in `slot`, written and sealed.
    pub(super) fn replaced(&mut self, block: BlockRef, slot: SlotIndex, seal: Seal) {
        let held = self.held(block);
        let old = held.slot;
        self.insert(block, slot, BlockState::Sealed(seal), false);
        self.work.data = true;
        self.work.names.insert(slot, block);
        self.work.changes.insert(slot, Change::Sealed(block, seal));
        if old != slot {
            self.work.replaced.insert(old);
            self.retiring += 1;
        }
    }

    /// Ends the claim of a replacement that could not be written to `slot`.
    pub(super) fn not_replaced(&mut self, block: BlockRef, slot: SlotIndex) {
        if !self.held(block).fresh {
            self.return_slot(slot);
        }
        self.release(block);
    }

    /// Forgets a block that nobody claims.
    pub(super) fn delete(&mut self, block: BlockRef) -> bool {
        let Some(held) = self.blocks.remove(&block) else {
            return false;
        };
        assert!(!held.busy, "{block} is deleted while it is changed");
        self.work.changes.insert(held.slot, Change::Clear);
        self.retiring += 1;
        true
    }

    /// What a sync that begins now has to do.
    pub(super) fn take_work(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    /// The seal entries of these slots are durably clear.
    pub(super) fn retired(&mut self, slots: &[SlotIndex]) {
        for &slot in slots {
            self.return_slot(slot);
        }
        self.retiring -= slots.len() as u64;
    }

    fn insert(&mut self, block: BlockRef, slot: SlotIndex, state: BlockState, fresh: bool) {
        self.stamps += 1;
        let held = Held {
            slot,
            state,
            stamp: self.stamps,
            busy: false,
            fresh,
            written: 0,
            in_new_slot: false,
            crc: 0,
        };
        self.blocks.insert(block, held);
    }

    #[expect(clippy::expect_used, reason = "claimed blocks stay: deleting waits for the claim")]
    fn held(&mut self, block: BlockRef) -> &mut Held {
        self.blocks.get_mut(&block).expect("the caller found the block")
    }
}

impl Work {
    /// The slots that this work frees.
    pub(super) fn retiring(&self) -> Vec<SlotIndex> {
        let cleared = self.changes.iter().filter(|&(_, &change)| change == Change::Clear);
        cleared.map(|(&slot, _)| slot).chain(self.replaced.iter().copied()).collect()
    }
}
