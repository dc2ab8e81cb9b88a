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
    /// The place of the page so many pages behind it.
    pub(crate) fn advanced(self, pages: u16) -> Self {
        Self { offset: self.offset + pages * UNITS_PER_PAGE, ..self }
    }
}

/// Pages that stand one after another in one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
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

/// More extents than this are kept as one place per page, which then takes less memory.
const DENSE: usize = 512;

/// The place of a page that is not mapped, in a dense leaf.
const NOWHERE: Location = Location { block: u32::MAX, offset: 0, header: 0 };

/// What the pages of one leaf are mapped to.
#[derive(Clone, Debug)]
pub(crate) enum Leaf {
    /// Extents: sorted, none overlap.
    Sparse(Vec<Extent>),
    /// The place of every page, or [`NOWHERE`].
    Dense(Box<[Location; LEAF_PAGES as usize]>),
}

impl Default for Leaf {
    fn default() -> Self {
        Self::Sparse(Vec::new())
    }
}

impl Leaf {
    /// Maps pages `start..start + count` to `location` and the places behind it, or unmaps them.
    /// What they were mapped to before is handed to `displaced`.
    pub(crate) fn set(
        &mut self,
        start: u16,
        count: u16,
        location: Option<Location>,
        displaced: impl FnMut(Displaced),
    ) {
        match self {
            Self::Sparse(extents) => {
                set_extent(extents, start, count, location, displaced);
                if extents.len() > DENSE {
                    *self = dense(extents);
                }
            }
            Self::Dense(places) => set_places(places, start, count, location, displaced),
        }
    }

    /// The runs that make up pages `start..start + count`, in order.
    pub(crate) fn lookup(&self, start: u16, count: u16, mut found: impl FnMut(Segment)) {
        let end = start + count;
        match self {
            Self::Sparse(extents) => {
                let mut at = start;
                let first = extents.partition_point(|extent| extent.end() <= start);
                for extent in extents[first..].iter().take_while(|extent| extent.start < end) {
                    if at < extent.start {
                        found(Segment { start: at, count: extent.start - at, location: None });
                    }
                    let part = extent.part(extent.start.max(start), extent.end().min(end));
                    let location = Some(part.location);
                    found(Segment { start: part.start, count: part.count, location });
                    at = part.end();
                }
                if at < end {
                    found(Segment { start: at, count: end - at, location: None });
                }
            }
            Self::Dense(places) => {
                let mut at = start;
                while at < end {
                    let run = run_of(places, at, end);
                    at = run.start + run.count;
                    found(run);
                }
            }
        }
    }

    /// Whether nothing is mapped.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Sparse(extents) => extents.is_empty(),
            Self::Dense(places) => places.iter().all(|place| *place == NOWHERE),
        }
    }

    /// Gives back the memory that it took for growing.
    pub(crate) fn shrink(&mut self) {
        if let Self::Sparse(extents) = self {
            extents.shrink_to_fit();
        }
    }

    /// What it takes of memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Sparse(extents) => extents.capacity() * size_of::<Extent>(),
                Self::Dense(places) => size_of_val(&**places),
            }
    }

    /// The extents, in order.
    fn extents(&self) -> Vec<Extent> {
        let mut extents = Vec::new();
        self.lookup(0, LEAF_PAGES as u16, |Segment { start, count, location }| {
            extents.extend(location.map(|location| Extent { start, count, location }));
        });
        extents
    }

    /// Appends the encoded extents.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for extent in self.extents() {
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
            if extent.units_end() > 1 << 16 || block == NOWHERE.block {
                return None;
            }
            extents.push(extent);
        }
        if !chunks.remainder().is_empty() {
            return None;
        }
        Some(if extents.len() > DENSE { dense(&extents) } else { Self::Sparse(extents) })
    }
}

fn set_extent(
    extents: &mut Vec<Extent>,
    start: u16,
    count: u16,
    location: Option<Location>,
    mut displaced: impl FnMut(Displaced),
) {
    let end = start + count;
    let first = extents.partition_point(|extent| extent.end() <= start);
    let last = first + extents[first..].partition_point(|extent| extent.start < end);
    let mut insert: [Option<Extent>; 3] = [None; 3];
    for extent in &extents[first..last] {
        let (from, to) = (extent.start.max(start), extent.end().min(end));
        displaced(Displaced { block: extent.location.block, pages: u32::from(to - from) });
    }
    if first < last {
        let (left, right) = (extents[first], extents[last - 1]);
        insert[0] = (left.start < start).then(|| left.part(left.start, start));
        insert[2] = (right.end() > end).then(|| right.part(end, right.end()));
    }
    insert[1] = location.map(|location| Extent { start, count, location });
    extents.splice(first..last, insert.into_iter().flatten());
    join_at(extents, first);
}

/// Joins extents from `first` on that continue one another.
fn join_at(extents: &mut Vec<Extent>, first: usize) {
    let mut index = first.saturating_sub(1);
    while index + 1 < extents.len() && index <= first + 2 {
        let (left, right) = (extents[index], extents[index + 1]);
        if left.end() == right.start
            && left.location.block == right.location.block
            && left.location.header == right.location.header
            && left.units_end() == u32::from(right.location.offset)
        {
            extents[index].count += right.count;
            extents.remove(index + 1);
        } else {
            index += 1;
        }
    }
}

fn dense(extents: &[Extent]) -> Leaf {
    let mut places = Box::new([NOWHERE; LEAF_PAGES as usize]);
    for extent in extents {
        set_places(&mut places, extent.start, extent.count, Some(extent.location), |_| ());
    }
    Leaf::Dense(places)
}

fn set_places(
    places: &mut [Location; LEAF_PAGES as usize],
    start: u16,
    count: u16,
    location: Option<Location>,
    mut displaced: impl FnMut(Displaced),
) {
    for page in 0..count {
        let place = &mut places[usize::from(start + page)];
        if *place != NOWHERE {
            displaced(Displaced { block: place.block, pages: 1 });
        }
        *place = location.map_or(NOWHERE, |location| location.advanced(page));
    }
}

/// The longest run from page `at` on, and before `end`, of pages that stand one after another.
fn run_of(places: &[Location; LEAF_PAGES as usize], at: u16, end: u16) -> Segment {
    let first = places[usize::from(at)];
    let units =
        |page: u16| u32::from(first.offset) + u32::from(page - at) * u32::from(UNITS_PER_PAGE);
    let continues = |page: u16| {
        let place = places[usize::from(page)];
        match first == NOWHERE {
            true => place == NOWHERE,
            false => {
                (place.block, place.header) == (first.block, first.header)
                    && u32::from(place.offset) == units(page)
            }
        }
    };
    let stop = (at + 1..end).find(|&page| !continues(page)).unwrap_or(end);
    let location = (first != NOWHERE).then_some(first);
    Segment { start: at, count: stop - at, location }
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
        assert_eq!(leaf.extents().len(), 2);
    }

    #[test]
    fn the_last_page_of_the_largest_block_has_a_place() {
        let mut leaf = Leaf::default();
        leaf.set(0, 1, at(1, 65_528), |_| ());
        leaf.set(1, 1, at(1, 8), |_| ());
        let mut bytes = Vec::new();
        leaf.encode(&mut bytes);
        assert_eq!(Leaf::decode(&bytes).map(|leaf| leaf.extents()), Some(leaf.extents()));
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
    fn a_leaf_of_many_extents_takes_eight_bytes_a_page() {
        let mut leaf = Leaf::default();
        for page in 0..LEAF_PAGES as u16 {
            leaf.set(page, 1, at(u32::from(page), 8), |_| ());
        }
        assert!(leaf.memory() <= 8 * LEAF_PAGES as usize + 64, "{}", leaf.memory());
        assert_eq!(pages(&leaf)[700], Some((700, 8)));
    }

    #[test]
    fn golden_bytes() {
        let mut leaf = Leaf::default();
        leaf.set(2, 3, Some(Location { block: 4, offset: 5, header: 6 }), |_| ());
        let mut bytes = Vec::new();
        leaf.encode(&mut bytes);
        assert_eq!(bytes, [2, 0, 3, 0, 4, 0, 0, 0, 5, 0, 6, 0]);
        assert_eq!(Leaf::decode(&bytes).map(|leaf| leaf.extents()), Some(leaf.extents()));
        assert!(Leaf::decode(&bytes[..11]).is_none());
    }

    proptest! {
        /// Against the slow, obvious map: one entry a page.
        #[test]
        fn it_maps_as_an_array_does(
            changes in proptest::collection::vec((0..1000_u16, 1..24_u16, 0..4_u32, 0..2000_u16), 1..80),
            dense_from_the_start: bool,
        ) {
            let mut leaf = if dense_from_the_start { dense(&[]) } else { Leaf::default() };
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
            prop_assert_eq!(&pages(&leaf), &model);
            let mut bytes = Vec::new();
            leaf.encode(&mut bytes);
            let decoded = Leaf::decode(&bytes).map(|leaf| leaf.extents());
            prop_assert_eq!(decoded, Some(leaf.extents()));
            prop_assert_eq!(leaf.is_empty(), model.iter().all(Option::is_none));
        }
    }
}
