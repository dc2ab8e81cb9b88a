//! Which blocks a checkpoint needs.

use std::collections::BTreeMap;

use torus_blockstore::{BlockIndex, BlockRef, INodeRef, VolumeId};
use torus_metadata::Head;

use super::load::{LoadError, Loader, inode_block};
use crate::table::decode_part;

impl Loader {
    /// The blocks of `volume` that a checkpoint needs, with their lengths in bytes: those its map
    /// points into, and those of its INodes.
    pub(crate) async fn blocks(
        &self,
        head: &Head,
        volume: VolumeId,
    ) -> Result<BTreeMap<BlockRef, u64>, LoadError> {
        let inode = head.inode_ref();
        let root = self.root(head).await?;
        let mut blocks = BTreeMap::new();
        for place in root.parts.values() {
            let part = decode_part(&self.object(*place).await?);
            let entries = part.ok_or(LoadError::Format { inode })?.into_iter().flatten();
            let length = |entry: &crate::table::Entry| entry.seal.map_or(0, |seal| seal.length);
            blocks.extend(entries.map(|entry| (entry.block, u64::from(length(&entry)))));
        }
        for (name, inode) in &root.inodes {
            blocks.extend(blocks_of_inode(*name, inode.length, self.pool.block_size()));
        }
        blocks.retain(|block, _| block.volume == volume);
        Ok(blocks)
    }
}

/// The blocks in which an INode of this length stands, with their lengths.
pub(crate) fn blocks_of_inode(
    name: INodeRef,
    length: u64,
    block_size: u32,
) -> impl Iterator<Item = (BlockRef, u64)> {
    let size = u64::from(block_size);
    (0..length.div_ceil(size)).map(move |index| {
        let block = inode_block(name, BlockIndex(index));
        (block, (length - index * size).min(size))
    })
}
