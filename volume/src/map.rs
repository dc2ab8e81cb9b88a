//! The volume's map: which place in the log holds each page. A tree of leaves, of which only those
//! exist that map something.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use torus_blockstore::{BlockSpec, VolumeId};

use crate::extent::{LEAF_PAGES, Leaf, Location};
use crate::table::BlockTable;

/// A run of pages as a lookup finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) page: u64,
    pub(crate) count: u32,
    /// `None`: reads as zeros.
    pub(crate) location: Option<Location>,
}

/// All leaves of a volume, with the table of the blocks that they point into.
#[derive(Debug)]
pub(crate) struct Map {
    leaves: BTreeMap<u64, Leaf>,
    dirty: BTreeSet<u64>,
    pub(crate) table: BlockTable,
}

impl Map {
    /// A map of nothing.
    pub(crate) fn new(volume: VolumeId, spec: BlockSpec) -> Self {
        let (leaves, dirty) = Default::default();
        Self { leaves, dirty, table: BlockTable::new(volume, spec) }
    }

    /// Points pages `page..page + count` at `location` and the places behind it (`None`: unmaps
    /// them), and keeps the table's count of live pages.
    pub(crate) fn set(&mut self, page: u64, count: u32, location: Option<Location>) {
        let mut done = 0;
        for (leaf, start, part) in leaves_of(page, count) {
            let location = location.map(|l| Location { offset: l.offset + done as u16 * 8, ..l });
            done += u32::from(part);
            self.dirty.insert(leaf);
            if location.is_none() && !self.leaves.contains_key(&leaf) {
                continue;
            }
            let table = &mut self.table;
            let content = self.leaves.entry(leaf).or_default();
            content.set(start, part, location, |run| table.displaced(run.block, run.pages));
            if let Some(location) = location {
                table.mapped(location.block, u32::from(part));
            } else if content.is_empty() {
                self.leaves.remove(&leaf);
            }
        }
    }

    /// The runs that make up `count` pages from `page` on, in order.
    pub(crate) fn lookup(&self, page: u64, count: u32, mut found: impl FnMut(Run)) {
        for (leaf, start, part) in leaves_of(page, count) {
            let base = leaf * LEAF_PAGES;
            match self.leaves.get(&leaf) {
                Some(content) => content.lookup(start, part, |segment| {
                    found(Run {
                        page: base + u64::from(segment.start),
                        count: u32::from(segment.count),
                        location: segment.location,
                    });
                }),
                None => found(Run {
                    page: base + u64::from(start),
                    count: u32::from(part),
                    location: None,
                }),
            }
        }
    }

    /// Pages that are mapped, in the whole volume.
    pub(crate) fn mapped_pages(&self) -> u64 {
        self.leaves.values().map(Leaf::mapped_pages).sum()
    }

    /// The leaves that changed since the last call.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.dirty)
    }

    /// A leaf, encoded; `None` where nothing is mapped.
    pub(crate) fn encode_leaf(&self, leaf: u64) -> Option<Vec<u8>> {
        let content = self.leaves.get(&leaf)?;
        let mut out = Vec::new();
        content.encode(&mut out);
        Some(out)
    }

    /// Puts a stored leaf in its place; `None`: the bytes are no leaf.
    pub(crate) fn load_leaf(&mut self, leaf: u64, bytes: &[u8]) -> Option<()> {
        let content = Leaf::decode(bytes)?;
        self.leaves.insert(leaf, content);
        Some(())
    }
}

/// The parts of a run of pages in each leaf: leaf, first page in it, pages.
fn leaves_of(page: u64, count: u32) -> impl Iterator<Item = (u64, u16, u16)> {
    let Range { start, end } = page..page + u64::from(count);
    (start / LEAF_PAGES..end.div_ceil(LEAF_PAGES)).map(move |leaf| {
        let base = leaf * LEAF_PAGES;
        let (from, to) = (start.max(base), end.min(base + LEAF_PAGES));
        ((leaf), (from - base) as u16, (to - from) as u16)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use torus_blockstore::{BlockIndex, INodeIndex};

    #[test]
    fn a_run_over_a_leafs_edge_is_found_in_both() {
        let mut map = Map::new(VolumeId::new(1).unwrap(), BlockSpec::default());
        let block = map.table.add(INodeIndex(1), BlockIndex(0));
        let location = Location { block, offset: 8, header: 7 };
        map.set(1022, 4, Some(location));
        let mut runs = Vec::new();
        map.lookup(1021, 6, |run| runs.push(run));
        let at = |offset| Some(Location { offset, ..location });
        assert_eq!(
            runs,
            [
                Run { page: 1021, count: 1, location: None },
                Run { page: 1022, count: 2, location: at(8) },
                Run { page: 1024, count: 2, location: at(24) },
                Run { page: 1026, count: 1, location: None },
            ]
        );
        assert_eq!(map.table.get(block).map(|entry| entry.live), Some(4));
        map.set(0, 1024, None);
        assert_eq!(map.table.get(block).map(|entry| entry.live), Some(2));
        assert_eq!(map.take_dirty(), BTreeSet::from([0, 1]));
        assert_eq!((map.encode_leaf(0), map.mapped_pages()), (None, 2));
    }
}
