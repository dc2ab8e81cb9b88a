//! The volume's table of blocks: a short number for each data block that its map points into, with
//! the seal it was closed with and how many live pages it has.
//!
//! The table is stored in parts of 1,024 numbers, so that a checkpoint writes only what changed.
//! Encoded, integers little-endian:
//!
//! | offset | size | field   | meaning                                                        |
//! |-------:|-----:|---------|----------------------------------------------------------------|
//! |      0 |    4 | count   | numbers in the part                                            |
//! |      4 |    4 | live…   | per number: pages that the map points at; 2^32-1: it is free   |
//! |      … |      | blocks  | a [`BlockSet`] of the other numbers' blocks, in their order     |

use std::collections::BTreeSet;

use torus_blockstore::{
    BlockIndex, BlockKind, BlockRef, BlockSet, BlockSpec, INodeIndex, Seal, VolumeId,
};

/// Numbers in one stored part.
pub(crate) const PART_NUMBERS: u32 = 1024;
/// In place of the live pages of a number that names no block.
const FREE: u32 = u32::MAX;

/// One block of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) inode: INodeIndex,
    pub(crate) index: BlockIndex,
    /// `None` while the block is open.
    pub(crate) seal: Option<Seal>,
    /// Pages that the map points at.
    pub(crate) live: u32,
}

/// All data blocks of the volume.
#[derive(Debug)]
pub(crate) struct BlockTable {
    volume: VolumeId,
    /// The layers by which the stored table describes blocks.
    spec: BlockSpec,
    entries: Vec<Option<Entry>>,
    /// Numbers below `entries.len()` that name no block.
    free: BTreeSet<u32>,
    dirty: BTreeSet<u32>,
}

impl BlockTable {
    /// An empty table of a volume.
    pub(crate) fn new(volume: VolumeId, spec: BlockSpec) -> Self {
        let (entries, free, dirty) = Default::default();
        Self { volume, spec, entries, free, dirty }
    }

    /// Gives a new block a number.
    pub(crate) fn add(&mut self, inode: INodeIndex, index: BlockIndex) -> u32 {
        let entry = Some(Entry { inode, index, seal: None, live: 0 });
        let number = match self.free.pop_first() {
            Some(number) => {
                self.entries[number as usize] = entry;
                number
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.touch(number);
        number
    }

    /// The block with this number.
    pub(crate) fn get(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number as usize)?.as_ref()
    }

    /// Notes the seal of a block.
    pub(crate) fn sealed(&mut self, number: u32, seal: Seal) {
        if let Some(entry) = self.entry(number) {
            entry.seal = Some(seal);
        }
    }

    /// Counts pages in: the map points at them now.
    pub(crate) fn mapped(&mut self, number: u32, pages: u32) {
        if let Some(entry) = self.entry(number) {
            entry.live += pages;
        }
    }

    /// Counts pages out: the map no longer points at them.
    pub(crate) fn displaced(&mut self, number: u32, pages: u32) {
        if let Some(entry) = self.entry(number) {
            assert!(entry.live >= pages, "block {number}: {} live, {pages} displaced", entry.live);
            entry.live -= pages;
        }
    }

    /// How many blocks there are.
    pub(crate) fn block_count(&self) -> u64 {
        (self.entries.len() - self.free.len()) as u64
    }

    /// The parts that changed since the last call.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.dirty)
    }

    /// One part, encoded. Open blocks must have been sealed before.
    pub(crate) fn encode_part(&self, part: u32) -> Vec<u8> {
        let first = (part * PART_NUMBERS) as usize;
        let entries = self.entries.iter().skip(first).take(PART_NUMBERS as usize);
        let mut out = (entries.len() as u32).to_le_bytes().to_vec();
        let mut blocks = BlockSet::new(self.spec.clone());
        for entry in entries {
            let live = entry.map_or(FREE, |entry| entry.live);
            out.extend_from_slice(&live.to_le_bytes());
            if let Some(entry) = entry {
                let block = BlockRef {
                    volume: self.volume,
                    kind: BlockKind::Data,
                    inode: entry.inode,
                    index: entry.index,
                };
                blocks.push(block, entry.seal.unwrap_or(Seal { length: 0, crc: 0 }));
            }
        }
        out.extend_from_slice(&blocks.encode());
        out
    }

    /// Adds a part that [`encode_part`](Self::encode_part) wrote; parts come in order, from 0.
    /// `None`: the bytes are no such part.
    pub(crate) fn load_part(&mut self, bytes: &[u8]) -> Option<()> {
        let count = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        let blocks_at = 4 + 4 * usize::try_from(count).ok().filter(|_| count <= PART_NUMBERS)?;
        let blocks = BlockSet::decode(bytes.get(blocks_at..)?).ok()?;
        let mut blocks = blocks.iter();
        for live in bytes[4..blocks_at].chunks_exact(4) {
            let live = u32::from_le_bytes(live.try_into().ok()?);
            if live == FREE {
                self.free.insert(u32::try_from(self.entries.len()).ok()?);
                self.entries.push(None);
                continue;
            }
            let found = blocks.next()?;
            // Without the layer crc the table does not know the checksum; the peers do.
            let seal = Some(Seal { length: found.length, crc: found.crc.unwrap_or(0) });
            let BlockRef { inode, index, .. } = found.block;
            self.entries.push(Some(Entry { inode, index, seal, live }));
        }
        blocks.next().is_none().then_some(())
    }

    fn entry(&mut self, number: u32) -> Option<&mut Entry> {
        self.touch(number);
        self.entries.get_mut(number as usize)?.as_mut()
    }

    fn touch(&mut self, number: u32) {
        self.dirty.insert(number / PART_NUMBERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> BlockTable {
        BlockTable::new(VolumeId::new(7).unwrap(), BlockSpec::default())
    }

    #[test]
    fn a_stored_part_comes_back() {
        let mut table = table();
        let first = table.add(INodeIndex(2), BlockIndex(0));
        let second = table.add(INodeIndex(2), BlockIndex(1));
        for (number, pages) in [(first, 5), (second, 7)] {
            table.sealed(number, Seal { length: 4096, crc: number });
            table.mapped(number, pages);
        }
        table.displaced(second, 2);
        table.entries.insert(1, None);
        assert_eq!(table.take_dirty(), BTreeSet::from([0]));
        let bytes = table.encode_part(0);
        let mut loaded = self::table();
        assert_eq!(loaded.load_part(&bytes), Some(()));
        assert_eq!(loaded.entries, table.entries);
        assert_eq!((loaded.block_count(), loaded.free), (2, BTreeSet::from([1])));
        assert_eq!(loaded.entries[2].map(|entry| entry.live), Some(5));
        for end in 0..bytes.len() {
            assert_eq!(self::table().load_part(&bytes[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn golden_bytes() {
        let mut table = table();
        let number = table.add(INodeIndex(2), BlockIndex(3));
        table.sealed(number, Seal { length: 4, crc: 5 });
        table.mapped(number, 6);
        let bytes = table.encode_part(0);
        assert_eq!(bytes[..8], [1, 0, 0, 0, 6, 0, 0, 0]);
        let blocks = BlockSet::decode(&bytes[8..]).unwrap();
        let block = blocks.iter().next().unwrap();
        assert_eq!(block.block.to_string(), "br 7 : 2 : 3");
        assert_eq!((block.length, block.crc), (4, Some(5)));
    }
}
