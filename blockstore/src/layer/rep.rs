//! The replication layer: one `u32`, how many copies of each block there are. All have the block's
//! own name, so where they are is for the ring to say.

use super::{BlockSetError, check_length};
use crate::field::u32_at;

/// One copy is what a layer without a number would mean; a spec never lacks it.
pub(super) fn encode(copies: Option<u32>) -> Vec<u8> {
    copies.unwrap_or(1).to_le_bytes().to_vec()
}

pub(super) fn decode(content: &[u8]) -> Result<u32, BlockSetError> {
    check_length(size_of::<u32>(), content.len())?;
    Ok(u32_at(content, 0))
}
