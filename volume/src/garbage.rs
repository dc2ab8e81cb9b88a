//! Which blocks garbage collection copies forward, and when.
//!
//! Pure. A log-structured volume gets its space back by copying what is alive in a block to the end
//! of its log; the block is dead then, and leaves with the next checkpoint. Victims are chosen by
//! the benefit and cost of the log-structured file system of Rosenblum and Ousterhout (SOSP '91),
//! with the logarithm of the age: at 75 % of use and uniform overwrites it copies 1.2 pages
//! for each that is written, and it leaves alone what was written lately and will die by
//! itself.

use torus_blockstore::{BlockIndex, INodeIndex};
use torus_metadata::LogPosition;

use crate::record::PAGE;
use crate::table::{BlockTable, Entry};

/// Victims that are chosen at once.
const BATCH: usize = 64;
/// Of the live bytes, the part that garbage may be where there is room, and where there is none.
const MOST_PART: u64 = 3;
const LEAST_PART: u64 = 9;

/// How much garbage may stay: a quarter of what is stored, but on nearly full peers less by what
/// they lack, down to a tenth. To collect no more than that is what keeps copying cheap: with half
/// the garbage, a victim holds twice as much to copy for each byte that it gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Bytes that are not worth the trouble where nothing is lacking.
    pub(crate) slack: u64,
    /// Bytes that the peers lack.
    pub(crate) shortage: u64,
}

impl Limit {
    /// Bytes of garbage, out of so many, that may stay beside so many live ones.
    pub(crate) fn allowed(&self, live: u64, garbage: u64) -> u64 {
        let least = live / LEAST_PART;
        garbage
            .saturating_sub(self.shortage)
            .clamp(least, (live / MOST_PART).max(self.slack).max(least))
    }
}

/// Whether there is more garbage than stays on full peers.
pub(crate) fn can_shrink(live: u64, garbage: u64) -> bool {
    garbage > live / LEAST_PART
}

/// What a look at the whole table found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Bytes of the sealed blocks that no snapshot needs.
    pub(crate) stored: u64,
    /// Bytes of them that the map points at.
    pub(crate) live: u64,
    /// The blocks to copy forward, best first; none while the garbage is within bounds.
    pub(crate) victims: Vec<u32>,
}

/// Looks at every block of the table. Blocks before `pinned` are a snapshot's: to copy them gives
/// no space back. `end` is where the log ends, from which ages are counted.
pub(crate) fn survey(
    table: &BlockTable,
    pinned: Option<LogPosition>,
    end: (INodeIndex, BlockIndex),
    limit: Limit,
) -> Survey {
    let is_free = |entry: &Entry| {
        table.is_own(entry)
            && pinned
                .is_none_or(|at| (entry.block.inode, entry.block.index) >= (at.inode, at.block))
    };
    let mut survey = Survey::default();
    let mut scored: Vec<(u64, u32)> = Vec::new();
    for (number, entry) in table.iter().filter(|(_, entry)| is_free(entry)) {
        // A dead block goes with the next checkpoint, by itself.
        let Some(seal) = entry.seal.filter(|_| entry.live > 0) else { continue };
        survey.stored += u64::from(seal.length);
        survey.live += entry.live_bytes();
        let score = score(&entry, seal.length, age(&entry, end));
        if score > 0 {
            scored.push((score, number));
        }
    }
    let garbage = survey.stored.saturating_sub(survey.live);
    if garbage > limit.allowed(survey.live, garbage) {
        scored.sort_unstable_by(|a, b| b.cmp(a));
        survey.victims = scored.into_iter().take(BATCH).map(|(_, number)| number).collect();
    }
    survey
}

/// Blocks that the log has grown by since; across generations, many.
fn age(entry: &Entry, end: (INodeIndex, BlockIndex)) -> u64 {
    match entry.block.inode == end.0 {
        true => end.1.0.saturating_sub(entry.block.index.0).max(1),
        false => end.1.0 + 4096,
    }
}

/// Benefit over cost; 0 for blocks that are not worth it: those with less than a page of garbage
/// beside their headers, and those without a live page, which go by themselves.
fn score(entry: &Entry, length: u32, age: u64) -> u64 {
    let (length, live) = (u64::from(length), entry.live_bytes());
    // A record's header takes up to an eighth of a single page.
    let garbage = length.saturating_sub(live + live / 8);
    if live == 0 || garbage < u64::from(PAGE) {
        return 0;
    }
    let logarithm = u64::from(u64::BITS - age.leading_zeros());
    (length - live) * 1024 / (length + live) * (1 + logarithm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use torus_blockstore::{BlockSpec, Seal, VolumeId};

    const INODE: INodeIndex = INodeIndex(1);
    const END: (INodeIndex, BlockIndex) = (INODE, BlockIndex(1000));

    const ROOM: Limit = Limit { slack: 8 << 20, shortage: 0 };
    const NO_ROOM: Limit = Limit { slack: 8 << 20, shortage: u64::MAX };

    /// Blocks of 128 pages with so many live ones each.
    fn table(live: &[u32]) -> BlockTable {
        let mut table = BlockTable::new(VolumeId::new(1).unwrap(), BlockSpec::default());
        for (index, live) in live.iter().enumerate() {
            let number = table.add(INODE, BlockIndex(index as u64));
            table.mapped(number, *live);
            table.sealed(number, Seal { length: 128 * PAGE, crc: 0 });
        }
        table
    }

    #[test]
    fn the_emptiest_blocks_are_copied_first() {
        let mut blocks = vec![100; 300];
        (blocks[7], blocks[9]) = (3, 1);
        let survey = survey(&table(&blocks), None, END, NO_ROOM);
        assert_eq!(survey.victims[..2], [9, 7]);
        assert_eq!(survey.victims.len(), BATCH);
        assert_eq!(survey.stored, 300 * 128 * 4096);
    }

    #[test]
    fn nothing_is_copied_while_the_garbage_is_within_bounds() {
        assert_eq!(survey(&table(&[97; 300]), None, END, ROOM).victims, [0_u32; 0]);
        assert_ne!(survey(&table(&[88; 300]), None, END, ROOM).victims, [0_u32; 0]);
        assert_eq!(survey(&table(&[1; 10]), None, END, ROOM).victims, [0_u32; 0], "too little");
    }

    #[test]
    fn no_more_is_collected_than_is_lacking() {
        let allowed = |garbage, shortage| Limit { slack: 0, shortage }.allowed(900, garbage);
        assert_eq!([allowed(250, 0), allowed(350, 0)], [250, 300]);
        assert_eq!([allowed(250, 30), allowed(350, 30)], [220, 300]);
        assert_eq!([allowed(250, 200), allowed(250, u64::MAX), allowed(90, 0)], [100; 3]);
    }

    #[test]
    fn of_two_equally_empty_blocks_the_older_goes_first() {
        let survey = survey(&table(&[50; 990]), None, END, ROOM);
        assert_eq!(survey.victims.first().map(|number| *number < 500), Some(true));
    }

    #[test]
    fn what_a_snapshot_needs_is_not_copied() {
        let pinned = LogPosition { inode: INODE, block: BlockIndex(300), offset: 0 };
        let blocks: Vec<u32> = (0..600).map(|index| if index < 300 { 1 } else { 60 }).collect();
        let survey = survey(&table(&blocks), Some(pinned), END, ROOM);
        assert!(survey.victims.iter().all(|number| *number >= 300), "{survey:?}");
        assert!(!survey.victims.is_empty());
    }

    #[test]
    fn full_and_dead_blocks_are_left_alone() {
        let mut blocks = vec![128; 100];
        blocks.extend(vec![0; 100]);
        assert_eq!(survey(&table(&blocks), None, END, NO_ROOM).victims, [0_u32; 0]);
    }
}
