//! The volume's table of blocks: a short number for each data block that its map points into, with
//! the seal it was closed with and how many live pages it has.
//!
//! The table is stored in parts of 1,024 numbers, so that a checkpoint writes only what changed.
//! Encoded, integers little-endian, one entry after another, free numbers as zeros:
//!
//! | offset | size | field  | meaning                                      |
//! |-------:|-----:|--------|----------------------------------------------|
//! |      0 |    8 | inode  | the block's generation; 0: the number is free |
//! |      8 |    8 | index  | the block's position in it                   |
//! |     16 |    4 | length | of the sealed block, in bytes                |
//! |     20 |    4 | CRC    | of the sealed block                          |
//! |     24 |    4 | live   | pages that the map points at                 |

use std::collections::BTreeSet;

use torus_blockstore::{BlockIndex, INodeIndex, Seal};

/// Numbers in one stored part.
pub(crate) const PART_NUMBERS: u32 = 1024;
const ENTRY_LEN: usize = 28;

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
#[derive(Debug, Default)]
pub(crate) struct BlockTable {
    entries: Vec<Option<Entry>>,
    /// Numbers below `entries.len()` that name no block.
    free: BTreeSet<u32>,
    dirty: BTreeSet<u32>,
}

impl BlockTable {
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
        let mut out = Vec::with_capacity(entries.len() * ENTRY_LEN);
        for entry in entries {
            let Some(entry) = entry else {
                out.extend_from_slice(&[0; ENTRY_LEN]);
                continue;
            };
            let seal = entry.seal.unwrap_or(Seal { length: 0, crc: 0 });
            out.extend_from_slice(&entry.inode.0.to_le_bytes());
            out.extend_from_slice(&entry.index.0.to_le_bytes());
            out.extend_from_slice(&seal.length.to_le_bytes());
            out.extend_from_slice(&seal.crc.to_le_bytes());
            out.extend_from_slice(&entry.live.to_le_bytes());
        }
        out
    }

    /// Adds a part that [`encode_part`](Self::encode_part) wrote; parts come in order, from 0.
    /// `None`: the bytes are no such part.
    pub(crate) fn load_part(&mut self, bytes: &[u8]) -> Option<()> {
        let chunks = bytes.chunks_exact(ENTRY_LEN);
        if !chunks.remainder().is_empty() || bytes.len() > PART_NUMBERS as usize * ENTRY_LEN {
            return None;
        }
        for chunk in chunks {
            let word = |at: usize| chunk[at..at + 8].try_into().map(u64::from_le_bytes).ok();
            let half = |at: usize| chunk[at..at + 4].try_into().map(u32::from_le_bytes).ok();
            let number = u32::try_from(self.entries.len()).ok()?;
            let (inode, index) = (INodeIndex(word(0)?), BlockIndex(word(8)?));
            if inode.0 == 0 {
                self.free.insert(number);
                self.entries.push(None);
                continue;
            }
            let seal = Some(Seal { length: half(16)?, crc: half(20)? });
            self.entries.push(Some(Entry { inode, index, seal, live: half(24)? }));
        }
        Some(())
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

    #[test]
    fn a_stored_part_comes_back() {
        let mut table = BlockTable::default();
        let first = table.add(INodeIndex(2), BlockIndex(0));
        let second = table.add(INodeIndex(2), BlockIndex(1));
        for (number, pages) in [(first, 5), (second, 7)] {
            table.sealed(number, Seal { length: 4096, crc: number });
            table.mapped(number, pages);
        }
        table.displaced(second, 2);
        assert_eq!(table.take_dirty(), BTreeSet::from([0]));
        let bytes = table.encode_part(0);
        assert_eq!(bytes.len(), 2 * ENTRY_LEN);
        let mut loaded = BlockTable::default();
        assert_eq!(loaded.load_part(&bytes), Some(()));
        assert_eq!(loaded.get(second), table.get(second));
        assert_eq!(loaded.block_count(), 2);
        assert_eq!(loaded.get(second).map(|entry| entry.live), Some(5));
    }

    #[test]
    fn golden_bytes() {
        let mut table = BlockTable::default();
        let number = table.add(INodeIndex(2), BlockIndex(3));
        table.sealed(number, Seal { length: 4, crc: 5 });
        table.mapped(number, 6);
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, 0, 0, 0, 0,  3, 0, 0, 0, 0, 0, 0, 0,
            4, 0, 0, 0,  5, 0, 0, 0,  6, 0, 0, 0,
        ];
        assert_eq!(table.encode_part(0), expected);
    }

    #[test]
    fn a_part_cut_short_is_refused() {
        assert_eq!(BlockTable::default().load_part(&[0; ENTRY_LEN - 1]), None);
    }
}
