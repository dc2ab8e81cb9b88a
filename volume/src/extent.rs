//! One leaf of a volume's map: which bytes of which blocks hold a run of 1,024 pages.
//!
//! Encoded, integers little-endian: per extent 12 bytes, in the order of the pages.
//!
//! | offset | size | field  | meaning                                            |
//! |-------:|-----:|--------|----------------------------------------------------|
//! |      0 |    2 | start  | first page, counted from the leaf's first          |
//! |      2 |    2 | count  | pages                                              |
//! |      4 |    4 | block  | number in the volume's block table                 |
//! |      8 |    2 | offset | of the first page in the block, in 512 bytes       |
//! |     10 |    2 | header | of its record's header in the block, in 512 bytes  |

use crate::record::{PAGE, UNIT};

/// Pages in a leaf: 4 MiB of the volume.
pub(crate) const LEAF_PAGES: u64 = 1024;
/// Encoded size of an extent, in bytes.
const EXTENT_LEN: usize = 12;
const UNITS_PER_PAGE: u16 = (PAGE / UNIT) as u16;

/// Where a page is stored. Pages of one extent stand one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// Number in the volume's block table.
    pub(crate) block: u32,
    /// Of the page in the block, in 512 bytes.
    pub(crate) offset: u16,
    /// Of the header of its record in the block, in 512 bytes.
    pub(crate) header: u16,
}

impl Location {
    fn advanced(self, pages: u16) -> Self {
        Self { offset: self.offset + pages * UNITS_PER_PAGE, ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    start: u16,
    count: u16,
    location: Location,
}

impl Extent {
    fn end(&self) -> u16 {
        self.start + self.count
    }

    /// Where its last page ends in the block, in 512 bytes: up to 2^16, the largest block's size.
    fn units_end(&self) -> u32 {
        u32::from(self.location.offset) + u32::from(self.count) * u32::from(UNITS_PER_PAGE)
    }

    fn part(&self, from: u16, to: u16) -> Self {
        Self { start: from, count: to - from, location: self.location.advanced(from - self.start) }
    }
}

/// A run of pages of a leaf that a change unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Displaced {
    pub(crate) block: u32,
    pub(crate) pages: u32,
}

/// A run of pages as a lookup finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Counted from the leaf's first.
    pub(crate) start: u16,
    pub(crate) count: u16,
    /// `None`: never written or zeroed.
    pub(crate) location: Option<Location>,
}

/// The extents of one leaf: sorted, none overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaf(Vec<Extent>);

impl Leaf {
    /// Maps pages `start..start + count` to `location` and the places behind it, or unmaps them.
    /// What they were mapped to before is handed to `displaced`.
    pub(crate) fn set(
        &mut self,
        start: u16,
        count: u16,
        location: Option<Location>,
        mut displaced: impl FnMut(Displaced),
    ) {
        let end = start + count;
        let first = self.0.partition_point(|extent| extent.end() <= start);
        let last = first + self.0[first..].partition_point(|extent| extent.start < end);
        let mut insert: [Option<Extent>; 3] = [None; 3];
        for extent in &self.0[first..last] {
            let (from, to) = (extent.start.max(start), extent.end().min(end));
            displaced(Displaced { block: extent.location.block, pages: u32::from(to - from) });
        }
        if first < last {
            let (left, right) = (self.0[first], self.0[last - 1]);
            insert[0] = (left.start < start).then(|| left.part(left.start, start));
            insert[2] = (right.end() > end).then(|| right.part(end, right.end()));
        }
        insert[1] = location.map(|location| Extent { start, count, location });
        self.0.splice(first..last, insert.into_iter().flatten());
        self.join_at(first);
    }

    /// Joins extents from `first` on that continue one another.
    fn join_at(&mut self, first: usize) {
        let mut index = first.saturating_sub(1);
        while index + 1 < self.0.len() && index <= first + 2 {
            let (left, right) = (self.0[index], self.0[index + 1]);
            if left.end() == right.start
                && left.location.block == right.location.block
                && left.location.header == right.location.header
                && left.units_end() == u32::from(right.location.offset)
            {
                self.0[index].count += right.count;
                self.0.remove(index + 1);
            } else {
                index += 1;
            }
        }
    }

    /// The runs that make up pages `start..start + count`, in order.
    pub(crate) fn lookup(&self, start: u16, count: u16, mut found: impl FnMut(Segment)) {
        let end = start + count;
        let mut at = start;
        let first = self.0.partition_point(|extent| extent.end() <= start);
        for extent in self.0[first..].iter().take_while(|extent| extent.start < end) {
            if at < extent.start {
                found(Segment { start: at, count: extent.start - at, location: None });
            }
            let part = extent.part(extent.start.max(start), extent.end().min(end));
            found(Segment { start: part.start, count: part.count, location: Some(part.location) });
            at = part.end();
        }
        if at < end {
            found(Segment { start: at, count: end - at, location: None });
        }
    }

    /// Whether nothing is mapped.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Pages that are mapped.
    pub(crate) fn mapped_pages(&self) -> u64 {
        self.0.iter().map(|extent| u64::from(extent.count)).sum()
    }

    /// Appends the encoded extents.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for extent in &self.0 {
            out.extend_from_slice(&extent.start.to_le_bytes());
            out.extend_from_slice(&extent.count.to_le_bytes());
            out.extend_from_slice(&extent.location.block.to_le_bytes());
            out.extend_from_slice(&extent.location.offset.to_le_bytes());
            out.extend_from_slice(&extent.location.header.to_le_bytes());
        }
    }

    /// Decodes what [`encode`](Self::encode) wrote; `None`: the bytes are no leaf.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut extents = Vec::with_capacity(bytes.len() / EXTENT_LEN);
        let mut chunks = bytes.chunks_exact(EXTENT_LEN);
        let mut free_from = 0;
        for chunk in &mut chunks {
            let half = |at: usize| u16::from_le_bytes([chunk[at], chunk[at + 1]]);
            let (start, count) = (half(0), half(2));
            let block = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
            let end = start.checked_add(count)?;
            if count == 0 || start < free_from || u64::from(end) > LEAF_PAGES {
                return None;
            }
            free_from = end;
            let location = Location { block, offset: half(8), header: half(10) };
            let extent = Extent { start, count, location };
            if extent.units_end() > 1 << 16 {
                return None;
            }
            extents.push(extent);
        }
        chunks.remainder().is_empty().then_some(Self(extents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(block: u32, offset: u16) -> Option<Location> {
        Some(Location { block, offset, header: 0 })
    }

    fn pages(leaf: &Leaf) -> Vec<Option<(u32, u16)>> {
        let mut pages = Vec::new();
        leaf.lookup(0, LEAF_PAGES as u16, |segment| {
            for page in 0..segment.count {
                pages.push(segment.location.map(|l| (l.block, l.offset + page * UNITS_PER_PAGE)));
            }
        });
        pages
    }

    #[test]
    fn runs_that_continue_one_another_are_one_extent() {
        let mut leaf = Leaf::default();
        leaf.set(10, 2, at(1, 8), |_| ());
        leaf.set(12, 2, at(1, 24), |_| ());
        leaf.set(8, 2, at(1, 100), |_| ());
        assert_eq!(leaf.0.len(), 2);
        assert_eq!(leaf.mapped_pages(), 6);
    }

    #[test]
    fn the_last_page_of_the_largest_block_has_a_place() {
        let mut leaf = Leaf::default();
        leaf.set(0, 1, at(1, 65_528), |_| ());
        leaf.set(1, 1, at(1, 8), |_| ());
        let mut bytes = Vec::new();
        leaf.encode(&mut bytes);
        assert_eq!(Leaf::decode(&bytes), Some(leaf));
    }

    #[test]
    fn a_hole_punched_in_an_extent_leaves_both_ends() {
        let mut leaf = Leaf::default();
        let mut displaced = Vec::new();
        leaf.set(0, 10, at(1, 8), |_| ());
        leaf.set(3, 4, None, |run| displaced.push(run));
        assert_eq!(displaced, [Displaced { block: 1, pages: 4 }]);
        assert_eq!(pages(&leaf)[2..8], [Some((1, 24)), None, None, None, None, Some((1, 64))]);
    }

    #[test]
    fn golden_bytes() {
        let mut leaf = Leaf::default();
        leaf.set(2, 3, Some(Location { block: 4, offset: 5, header: 6 }), |_| ());
        let mut bytes = Vec::new();
        leaf.encode(&mut bytes);
        assert_eq!(bytes, [2, 0, 3, 0, 4, 0, 0, 0, 5, 0, 6, 0]);
        assert_eq!(Leaf::decode(&bytes), Some(leaf));
        assert_eq!(Leaf::decode(&bytes[..11]), None);
    }

    proptest! {
        /// Against the slow, obvious map: one entry a page.
        #[test]
        fn it_maps_as_an_array_does(
            changes in proptest::collection::vec((0..1000_u16, 1..24_u16, 0..4_u32, 0..2000_u16), 1..80)
        ) {
            let mut leaf = Leaf::default();
            let mut model = vec![None; LEAF_PAGES as usize];
            for (start, count, block, offset) in changes {
                let mut displaced = 0;
                let location = (block > 0).then_some(Location { block, offset, header: 0 });
                leaf.set(start, count, location, |run| displaced += run.pages);
                let mut expected = 0;
                for page in 0..count {
                    let slot = &mut model[usize::from(start + page)];
                    expected += u32::from(slot.is_some());
                    *slot = location.map(|l| (l.block, l.offset + page * UNITS_PER_PAGE));
                }
                prop_assert_eq!(displaced, expected);
            }
            prop_assert_eq!(pages(&leaf), model);
            let mut bytes = Vec::new();
            leaf.encode(&mut bytes);
            prop_assert_eq!(Leaf::decode(&bytes), Some(leaf));
        }
    }
}
