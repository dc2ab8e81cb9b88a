//! What a crashed writer left in its log, found out block by block.
//!
//! Pure: copies of blocks in, records out. The log is a chain: each block's first record names the
//! block before it and the length at which that one ended. A flush was acknowledged only when every
//! peer of the block had it on disk, so any one readable copy of each block holds all that was
//! flushed, and the longest run of valid records among the copies is a prefix of what was written.

use torus_blockstore::{BlockIndex, BlockRef, BlockState, Epoch, INodeIndex};
use torus_metadata::Window;

use crate::record::{Header, PAGE, decode_header};

mod driver;

pub(crate) use driver::{Recovered, Tail, recover};

/// What the first record of the next block must name as its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Previous {
    /// Nothing: it is the generation's first.
    Start,
    /// The block with this index, of this length.
    Block(BlockIndex, u32),
    /// It is not known: the checkpoint that the chain starts from does not say.
    Unknown,
}

/// Where a chain has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) previous: Previous,
    /// Sequence number of its last record; `None`: not known, the next one is believed.
    pub(crate) sequence: Option<u64>,
}

/// One copy of a block as a peer gave it.
#[derive(Clone, Debug)]
pub(crate) struct Copy<'a> {
    pub(crate) state: BlockState,
    pub(crate) bytes: &'a [u8],
}

/// The valid records at the start of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) headers: Vec<Header>,
    /// Bytes that they take.
    pub(crate) length: u32,
    /// Whether a copy was sealed at this length.
    pub(crate) sealed: bool,
}

impl Chain {
    /// The chain at the block from which a checkpoint says that the log goes on.
    pub(crate) fn at(block: BlockIndex) -> Self {
        match block {
            BlockIndex(0) => Self { previous: Previous::Start, sequence: Some(0) },
            _ => Self { previous: Previous::Unknown, sequence: None },
        }
    }

    fn admits(&self, previous: Option<(BlockIndex, u32)>) -> bool {
        match self.previous {
            Previous::Start => previous.is_none(),
            Previous::Block(block, length) => previous == Some((block, length)),
            Previous::Unknown => previous.is_some(),
        }
    }

    /// The chain behind `records` of block `index`.
    pub(crate) fn behind(&self, index: BlockIndex, records: &Records) -> Self {
        match records.headers.last() {
            Some(last) => Self {
                previous: Previous::Block(index, records.length),
                sequence: Some(last.place.sequence),
            },
            None => *self,
        }
    }
}

/// The longest run of valid records that a copy of `block` begins with, sealed copies first. No
/// more than `limit` bytes count: a committed window says that the block was cut off there.
pub(crate) fn best_copy<'a>(
    block: BlockRef,
    epoch: Epoch,
    chain: Chain,
    limit: u32,
    copies: impl Iterator<Item = (usize, Copy<'a>)>,
) -> Option<(usize, Records)> {
    copies
        .map(|(which, copy)| (which, records_of(block, epoch, chain, limit, &copy)))
        .filter(|(_, records)| !records.headers.is_empty())
        .max_by_key(|(which, records)| (records.sealed, records.length, usize::MAX - which))
}

fn records_of(block: BlockRef, epoch: Epoch, chain: Chain, limit: u32, copy: &Copy<'_>) -> Records {
    let mut records = Records { headers: Vec::new(), length: 0, sealed: false };
    let (bytes, sealed) = match copy.state {
        BlockState::Sealed(seal) => match copy.bytes.get(..seal.length as usize) {
            Some(bytes) if crc32fast::hash(bytes) == seal.crc => (bytes, true),
            // A damaged copy; what records are intact may still be the best there is.
            _ => (copy.bytes, false),
        },
        BlockState::Open { .. } | BlockState::Unsettled => (copy.bytes, false),
    };
    let bytes = &bytes[..bytes.len().min(limit as usize)];
    let mut sequence = chain.sequence;
    while let Some(header) = record_at(block, records.length, bytes) {
        let follows = header.place.epoch == epoch
            && sequence.is_none_or(|last| header.place.sequence == last + 1)
            && (records.length > 0 || chain.admits(header.place.previous));
        if !follows {
            break;
        }
        sequence = Some(header.place.sequence);
        records.length += header.record_length();
        records.headers.push(header);
    }
    records.sealed = sealed && records.length as usize == bytes.len();
    records
}

/// The records of a block of which all is there; `None`: some of it is damaged.
pub(crate) fn whole_records(block: BlockRef, bytes: &[u8]) -> Option<Vec<Header>> {
    let (mut headers, mut offset) = (Vec::new(), 0);
    while (offset as usize) < bytes.len() {
        let header = record_at(block, offset, bytes)?;
        offset += header.record_length();
        headers.push(header);
    }
    Some(headers)
}

/// The record at `offset`, if its header and all its pages are intact.
fn record_at(block: BlockRef, offset: u32, bytes: &[u8]) -> Option<Header> {
    let header = decode_header(bytes.get(offset as usize..)?, block, offset).ok()?;
    let start = (offset + header.length) as usize;
    let pages = bytes.get(start..(offset + header.record_length()) as usize)?;
    let intact = pages
        .chunks_exact(PAGE as usize)
        .enumerate()
        .all(|(index, page)| header.page_is_intact(index, page));
    intact.then_some(header)
}

/// One block that may hold log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) index: BlockIndex,
    /// Which window permits it.
    pub(crate) window: usize,
    /// Whether its writer gave it up for a later window, which was committed only when the block
    /// had been sealed: on peers of its own window or on others. Then it must be found.
    pub(crate) given_up: bool,
    /// The length at which that window says that it ends.
    pub(crate) cut_at: Option<u32>,
}

/// The blocks of generation `inode` from `from` on that may hold log, in order: those of the
/// windows, less what a later window says is behind the log's end before it.
pub(crate) fn steps(windows: &[Window], inode: INodeIndex, from: BlockIndex) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (number, window) in windows.iter().enumerate().filter(|(_, window)| window.inode == inode) {
        if let Some(after) = window.after.filter(|after| after.inode == inode) {
            steps.retain(|step| step.index <= after.block);
            steps.iter_mut().for_each(|step| step.given_up = true);
            if let Some(last) = steps.last_mut().filter(|last| last.index == after.block) {
                last.cut_at = Some(after.offset);
            }
        }
        let indexes = window.first.0.max(from.0)..window.first.0 + window.count;
        steps.extend(indexes.map(|index| Step {
            index: BlockIndex(index),
            window: number,
            given_up: false,
            cut_at: None,
        }));
    }
    steps
}

#[cfg(test)]
mod tests;
