//! The innermost layer: the blocks themselves. 28 bytes each:
//!
//! | offset | size | field  | meaning             |
//! |-------:|-----:|--------|---------------------|
//! |      0 |   24 | block  | [`BlockRef`]        |
//! |     24 |    4 | length | sealed, in bytes    |

use super::{BlockSetError, LiveBlock, check_length};
use crate::BlockRef;
use crate::field::{array, u32_at};

const LEN: usize = BlockRef::LEN + size_of::<u32>();

pub(super) fn encode(blocks: &[LiveBlock]) -> Vec<u8> {
    let mut content = Vec::with_capacity(blocks.len() * LEN);
    for live in blocks {
        content.extend(live.block.encode());
        content.extend(live.length.to_le_bytes());
    }
    content
}

/// The blocks, yet without checksums.
pub(super) fn decode(content: &[u8]) -> Result<Vec<LiveBlock>, BlockSetError> {
    check_length(content.len() / LEN * LEN, content.len())?;
    let live = |entry: &[u8]| {
        let block = BlockRef::decode(&array(entry, 0))?;
        Ok(LiveBlock { block, length: u32_at(entry, BlockRef::LEN), crc: None })
    };
    content.chunks(LEN).map(live).collect()
}
