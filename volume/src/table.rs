//! The block table: which blocks a volume's map points into, and how much of each is still alive.
//!
//! The map names a block by its *number*, an index into this table, so that an extent stays small.
//! A block without a live page is *dead*; it leaves the table, and its number is given again, with
//! the checkpoint that no longer needs it. The table is stored in parts of 1,024 numbers, and read
//! part by part as they are needed; a part's bytes are, little-endian:
//!
//! | offset | size | field  | meaning                                                        |
//! |-------:|-----:|--------|----------------------------------------------------------------|
//! |      0 |    4 | count  | numbers in this part                                           |
//! |      4 |    4 | live…  | pages of each that the map points at; 2^32-1: names no block   |
//! |      … |      | blocks | a [`BlockSet`] with the blocks that there are, in their order  |

use std::collections::{BTreeMap, BTreeSet};

use torus_blockstore::{
    BlockIndex, BlockKind, BlockRef, BlockSet, BlockSpec, INodeIndex, Seal, VolumeId,
};

use crate::record::PAGE;

/// Numbers in one stored part.
pub(crate) const PART_NUMBERS: u32 = 1024;
/// In place of the live pages of a number that names no block.
const FREE: u32 = u32::MAX;
/// In place of the length of a block that is not sealed.
const OPEN: u32 = u32::MAX;

/// One block that the map points into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) block: BlockRef,
    /// `None` while the block is open.
    pub(crate) seal: Option<Seal>,
    /// Pages that the map points at.
    pub(crate) live: u32,
}

impl Entry {
    /// Bytes of it that the map points at.
    pub(crate) fn live_bytes(&self) -> u64 {
        u64::from(self.live) * u64::from(PAGE)
    }
}

/// An entry as it is kept in memory: 24 bytes, as there is one for each block of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    /// Which of the table's sources the block belongs to.
    source: u32,
    /// Or [`FREE`].
    live: u32,
    index: BlockIndex,
    /// Or [`OPEN`].
    length: u32,
    crc: u32,
}

const FREE_SLOT: Slot = Slot { source: 0, live: FREE, index: BlockIndex(0), length: 0, crc: 0 };

/// Sums over the table, also over parts that are not in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Blocks of this volume.
    pub(crate) own_blocks: u64,
    /// Bytes of its sealed blocks.
    pub(crate) own_bytes: u64,
    /// Pages that the map points at in them.
    pub(crate) own_pages: u64,
    /// Blocks of the volumes that this one is a clone of.
    pub(crate) foreign_blocks: u64,
    /// Pages that the map points at in them.
    pub(crate) foreign_pages: u64,
}

/// All data blocks that the map points into.
#[derive(Debug)]
pub(crate) struct BlockTable {
    volume: VolumeId,
    /// The layers by which the stored table describes blocks.
    spec: BlockSpec,
    /// `None`: stored, and not in memory.
    parts: Vec<Option<Vec<Slot>>>,
    /// Numbers ever given: all parts but the last are full.
    count: u32,
    /// What blocks can belong to: generations of this volume and of its parents.
    sources: Vec<(VolumeId, INodeIndex)>,
    source_numbers: BTreeMap<(VolumeId, INodeIndex), u32>,
    /// Numbers in loaded parts that name no block.
    free: BTreeSet<u32>,
    /// Sealed blocks without a live page.
    dead: BTreeSet<u32>,
    /// Their bytes, as far as they are this volume's.
    dead_bytes: u64,
    dirty: BTreeSet<u32>,
    totals: Totals,
}

impl BlockTable {
    /// An empty table of a volume.
    pub(crate) fn new(volume: VolumeId, spec: BlockSpec) -> Self {
        Self::stored(volume, spec, 0, Totals::default())
    }

    /// A table of `count` numbers of which no part is in memory.
    pub(crate) fn stored(volume: VolumeId, spec: BlockSpec, count: u32, totals: Totals) -> Self {
        let (sources, source_numbers, free, dead, dirty) = Default::default();
        let parts = vec![None; count.div_ceil(PART_NUMBERS) as usize];
        Self {
            volume,
            spec,
            parts,
            count,
            sources,
            source_numbers,
            free,
            dead,
            dead_bytes: 0,
            dirty,
            totals,
        }
    }

    /// Numbers that were ever given.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Gives a new block of this volume a number. The last part must be in memory.
    pub(crate) fn add(&mut self, inode: INodeIndex, index: BlockIndex) -> u32 {
        let source = self.source(self.volume, inode);
        let number = match self.free.pop_first() {
            Some(number) => number,
            None => {
                let number = self.count;
                self.count += 1;
                if number.is_multiple_of(PART_NUMBERS) {
                    self.parts.push(Some(Vec::new()));
                }
                self.part_mut(number).push(FREE_SLOT);
                number
            }
        };
        self.totals.own_blocks += 1;
        *self.slot_mut(number) = Slot { source, live: 0, index, length: OPEN, crc: 0 };
        self.dirty.insert(number / PART_NUMBERS);
        number
    }

    /// The block with this number. Its part must be in memory.
    pub(crate) fn get(&self, number: u32) -> Option<Entry> {
        let part = self.parts.get((number / PART_NUMBERS) as usize)?.as_ref()?;
        self.entry(part.get((number % PART_NUMBERS) as usize)?)
    }

    /// The blocks with their numbers, of all parts that are in memory.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Entry)> {
        let parts = self.parts.iter().zip(0..).filter_map(|(part, at)| Some((part.as_ref()?, at)));
        parts.flat_map(move |(slots, part)| {
            let entries = slots.iter().zip(part * PART_NUMBERS..);
            entries.filter_map(|(slot, number)| Some((number, self.entry(slot)?)))
        })
    }

    /// Whether the block is this volume's own, not a parent's.
    pub(crate) fn is_own(&self, entry: &Entry) -> bool {
        entry.block.volume == self.volume
    }

    /// Notes the seal of a block.
    pub(crate) fn sealed(&mut self, number: u32, seal: Seal) {
        let slot = self.slot_mut(number);
        (slot.length, slot.crc) = (seal.length, seal.crc);
        let is_dead = slot.live == 0;
        self.totals.own_bytes += u64::from(seal.length);
        self.dirty.insert(number / PART_NUMBERS);
        if is_dead {
            self.set_dead(number, true);
        }
    }

    /// Counts pages in: the map points at them now.
    pub(crate) fn mapped(&mut self, number: u32, pages: u32) {
        let is_own = self.is_own_number(number);
        self.slot_mut(number).live += pages;
        *self.pages_of(is_own) += u64::from(pages);
        self.set_dead(number, false);
        self.dirty.insert(number / PART_NUMBERS);
    }

    /// Counts pages out: the map no longer points at them.
    pub(crate) fn displaced(&mut self, number: u32, pages: u32) {
        let is_own = self.is_own_number(number);
        let slot = self.slot_mut(number);
        assert!(slot.live >= pages, "block {number}: {} live, {pages} displaced", slot.live);
        slot.live -= pages;
        let is_dead = slot.live == 0 && slot.length != OPEN;
        *self.pages_of(is_own) -= u64::from(pages);
        self.dirty.insert(number / PART_NUMBERS);
        if is_dead {
            self.set_dead(number, true);
        }
    }

    /// Whether there are blocks that the next checkpoint will not need.
    pub(crate) fn has_dead(&self) -> bool {
        !self.dead.is_empty()
    }

    /// Bytes of the own blocks that the next checkpoint will not need.
    pub(crate) fn dead_bytes(&self) -> u64 {
        self.dead_bytes
    }

    /// Counts a block among the dead, or no longer.
    fn set_dead(&mut self, number: u32, is_dead: bool) {
        let own = self.get(number).filter(|entry| self.is_own(entry));
        let length = own.and_then(|entry| entry.seal).map_or(0, |seal| u64::from(seal.length));
        if is_dead && self.dead.insert(number) {
            self.dead_bytes += length;
        } else if !is_dead && self.dead.remove(&number) {
            self.dead_bytes -= length;
        }
    }

    /// Takes the dead blocks out; their numbers may be given again. Those of this volume are
    /// returned: they can be freed once a checkpoint without them has been committed.
    pub(crate) fn take_dead(&mut self) -> Vec<BlockRef> {
        let mut own = Vec::new();
        self.dead_bytes = 0;
        for number in std::mem::take(&mut self.dead) {
            let Some(entry) = self.get(number) else { continue };
            if self.is_own(&entry) {
                own.push(entry.block);
                self.totals.own_blocks -= 1;
                self.totals.own_bytes -= u64::from(entry.seal.map_or(0, |seal| seal.length));
            } else {
                self.totals.foreign_blocks -= 1;
            }
            *self.slot_mut(number) = FREE_SLOT;
            self.free.insert(number);
            self.dirty.insert(number / PART_NUMBERS);
        }
        own
    }

    /// The parts that changed since the last call.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.dirty)
    }

    /// Whether a checkpoint would store a part.
    pub(crate) fn has_changes(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Has a part stored anew with the next checkpoint.
    pub(crate) fn touch(&mut self, part: u32) {
        self.dirty.insert(part);
    }

    /// Whether every part that is to be stored anew is in memory.
    pub(crate) fn dirty_is_here(&self) -> bool {
        self.dirty.iter().all(|part| self.is_here(*part))
    }

    /// Whether a part is in memory.
    pub(crate) fn is_here(&self, part: u32) -> bool {
        self.parts.get(part as usize).is_some_and(Option::is_some)
    }

    /// The parts that are not in memory.
    pub(crate) fn parts_away(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().zip(0..).filter(|(part, _)| part.is_none()).map(|(_, number)| number)
    }

    /// One part, encoded. Open blocks must have been sealed before.
    pub(crate) fn encode_part(&self, part: u32) -> Vec<u8> {
        let slots = self.parts.get(part as usize).and_then(Option::as_deref).unwrap_or_default();
        let mut out = (slots.len() as u32).to_le_bytes().to_vec();
        let mut blocks = BlockSet::new(self.spec.clone());
        for slot in slots {
            out.extend_from_slice(&slot.live.to_le_bytes());
            if let Some(entry) = self.entry(slot) {
                blocks.push(entry.block, entry.seal.unwrap_or(Seal { length: 0, crc: 0 }));
            }
        }
        out.extend_from_slice(&blocks.encode());
        out
    }

    /// Puts a part that [`encode_part`](Self::encode_part) wrote in its place. `None`: the bytes
    /// are no such part.
    pub(crate) fn load_part(&mut self, part: u32, bytes: &[u8]) -> Option<()> {
        let first = part * PART_NUMBERS;
        let expected = self.count.checked_sub(first)?.min(PART_NUMBERS) as usize;
        let entries = decode_part(bytes)?;
        if entries.len() != expected {
            return None;
        }
        let (mut slots, mut dead) = (Vec::with_capacity(PART_NUMBERS as usize), Vec::new());
        for (entry, number) in entries.into_iter().zip(first..) {
            let Some(Entry { block, seal, live }) = entry else {
                self.free.insert(number);
                slots.push(FREE_SLOT);
                continue;
            };
            let source = self.source(block.volume, block.inode);
            let Seal { length, crc } = seal.unwrap_or(Seal { length: 0, crc: 0 });
            slots.push(Slot { source, live, index: block.index, length, crc });
            if live == 0 {
                dead.push(number);
            }
        }
        *self.parts.get_mut(part as usize)? = Some(slots);
        dead.into_iter().for_each(|number| self.set_dead(number, true));
        Some(())
    }

    /// What the table takes of memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.parts.iter().flatten().map(|part| part.capacity() * size_of::<Slot>()).sum()
    }

    fn entry(&self, slot: &Slot) -> Option<Entry> {
        if slot.live == FREE {
            return None;
        }
        let (volume, inode) = self.sources[slot.source as usize];
        let block = BlockRef { volume, kind: BlockKind::Data, inode, index: slot.index };
        let seal = (slot.length != OPEN).then_some(Seal { length: slot.length, crc: slot.crc });
        Some(Entry { block, seal, live: slot.live })
    }

    fn source(&mut self, volume: VolumeId, inode: INodeIndex) -> u32 {
        let sources = &mut self.sources;
        *self.source_numbers.entry((volume, inode)).or_insert_with(|| {
            sources.push((volume, inode));
            sources.len() as u32 - 1
        })
    }

    fn is_own_number(&mut self, number: u32) -> bool {
        let source = self.slot_mut(number).source;
        self.sources[source as usize].0 == self.volume
    }

    fn pages_of(&mut self, is_own: bool) -> &mut u64 {
        if is_own { &mut self.totals.own_pages } else { &mut self.totals.foreign_pages }
    }

    fn part_mut(&mut self, number: u32) -> &mut Vec<Slot> {
        match self.parts.get_mut((number / PART_NUMBERS) as usize) {
            Some(Some(part)) => part,
            _ => unreachable!("the map points at block {number}, whose part is not in memory"),
        }
    }

    fn slot_mut(&mut self, number: u32) -> &mut Slot {
        &mut self.part_mut(number)[(number % PART_NUMBERS) as usize]
    }
}

/// The entries of a stored part, `None` for numbers that name no block; `None`: the bytes are no
/// such part.
pub(crate) fn decode_part(bytes: &[u8]) -> Option<Vec<Option<Entry>>> {
    let count = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    let blocks_at = 4 + 4 * usize::try_from(count).ok().filter(|_| count <= PART_NUMBERS)?;
    let blocks = BlockSet::decode(bytes.get(blocks_at..)?).ok()?;
    let mut blocks = blocks.iter();
    let mut entries = Vec::with_capacity(count as usize);
    for live in bytes[4..blocks_at].chunks_exact(4) {
        let live = u32::from_le_bytes(live.try_into().ok()?);
        entries.push(match live {
            FREE => None,
            _ => {
                let found = blocks.next()?;
                // Without the layer crc the table does not know the checksum; the peers do.
                let seal = Seal { length: found.length, crc: found.crc.unwrap_or(0) };
                Some(Entry { block: found.block, seal: Some(seal), live })
            }
        });
    }
    blocks.next().is_none().then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> VolumeId {
        VolumeId::new(7).unwrap()
    }

    fn table() -> BlockTable {
        BlockTable::new(volume(), BlockSpec::default())
    }

    fn add(table: &mut BlockTable, index: u64, pages: u32) -> u32 {
        let number = table.add(INodeIndex(2), BlockIndex(index));
        table.mapped(number, pages);
        table.sealed(number, Seal { length: 4096 * pages, crc: 5 });
        number
    }

    #[test]
    fn a_stored_part_comes_back() {
        let mut table = table();
        let numbers: Vec<u32> = (0..3).map(|index| add(&mut table, index, 5)).collect();
        table.displaced(numbers[1], 5);
        table.displaced(numbers[2], 2);
        assert_eq!(table.take_dead().len(), 1);
        assert_eq!(table.take_dirty(), BTreeSet::from([0]));
        let bytes = table.encode_part(0);
        let mut loaded = BlockTable::stored(volume(), BlockSpec::default(), 3, table.totals());
        assert_eq!(loaded.parts_away().collect::<Vec<_>>(), [0]);
        assert_eq!(loaded.load_part(0, &bytes), Some(()));
        assert_eq!(loaded.iter().collect::<Vec<_>>(), table.iter().collect::<Vec<_>>());
        assert_eq!(loaded.get(numbers[2]).map(|entry| entry.live), Some(3));
        assert_eq!(loaded.add(INodeIndex(9), BlockIndex(0)), numbers[1]);
        for end in 0..bytes.len() {
            assert_eq!(decode_part(&bytes[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn a_block_dies_with_its_last_page_and_leaves_with_the_checkpoint() {
        let mut table = table();
        let number = add(&mut table, 0, 2);
        table.displaced(number, 1);
        assert!(!table.has_dead());
        table.displaced(number, 1);
        assert!(table.has_dead());
        let dead = table.take_dead();
        assert_eq!(dead.iter().map(BlockRef::to_string).collect::<Vec<_>>(), ["br 7 : 2 : 0"]);
        assert_eq!((table.get(number), table.totals()), (None, Totals::default()));
    }

    #[test]
    fn an_open_block_is_not_dead() {
        let mut table = table();
        let number = table.add(INodeIndex(2), BlockIndex(0));
        table.mapped(number, 1);
        table.displaced(number, 1);
        assert!(!table.has_dead());
        table.sealed(number, Seal { length: 8192, crc: 0 });
        assert!(table.has_dead());
    }

    #[test]
    fn golden_bytes() {
        let mut table = table();
        let number = table.add(INodeIndex(2), BlockIndex(3));
        table.mapped(number, 6);
        table.sealed(number, Seal { length: 4, crc: 5 });
        let bytes = table.encode_part(0);
        assert_eq!(bytes[..8], [1, 0, 0, 0, 6, 0, 0, 0]);
        let blocks = BlockSet::decode(&bytes[8..]).unwrap();
        let block = blocks.iter().next().unwrap();
        assert_eq!(block.block.to_string(), "br 7 : 2 : 3");
        assert_eq!((block.length, block.crc), (4, Some(5)));
    }
}
