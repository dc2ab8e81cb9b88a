//! The checksum layer: a `u32` for each block of the base layer, the CRC-32 (IEEE) of its sealed
//! content.

use super::{BlockSetError, LiveBlock, check_length};
use crate::field::u32_at;

pub(super) const LEN: usize = size_of::<u32>();

pub(super) fn encode(blocks: &[LiveBlock]) -> Vec<u8> {
    // A set with this layer has a checksum for every block: `push` and `decode` see to it.
    blocks.iter().filter_map(|live| live.crc).flat_map(u32::to_le_bytes).collect()
}

pub(super) fn decode(content: &[u8]) -> Result<Vec<u32>, BlockSetError> {
    check_length(content.len() / LEN * LEN, content.len())?;
    Ok(content.chunks(LEN).map(|entry| u32_at(entry, 0)).collect())
}
