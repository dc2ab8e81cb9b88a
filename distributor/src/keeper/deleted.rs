//! The blocks that owners deleted lately. A daemon that repairs may have read its copy before the
//! deletion and bring it only now: it would stay, as its owner knows of it no more.

use std::collections::{BTreeSet, VecDeque};

use torus_blockstore::BlockRef;

/// So many are remembered, the latest: far more than are deleted while a copy is on its way.
const LIMIT: usize = 1 << 16;

#[derive(Default)]
pub(super) struct Deleted {
    blocks: BTreeSet<BlockRef>,
    /// Oldest first; may name blocks that were forgotten since.
    order: VecDeque<BlockRef>,
}

impl Deleted {
    pub(super) fn note(&mut self, block: BlockRef) {
        if !self.blocks.insert(block) {
            return;
        }
        self.order.push_back(block);
        while self.order.len() > LIMIT {
            let oldest = self.order.pop_front();
            oldest.iter().for_each(|oldest| _ = self.blocks.remove(oldest));
        }
    }

    pub(super) fn has(&self, block: BlockRef) -> bool {
        self.blocks.contains(&block)
    }

    /// Its owner wrote the block again.
    pub(super) fn forget(&mut self, block: BlockRef) {
        self.blocks.remove(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use torus_blockstore::{BlockIndex, BlockKind, INodeIndex, VolumeId};

    fn block(index: usize) -> BlockRef {
        let (volume, kind) = (VolumeId::new(1).unwrap(), BlockKind::Data);
        BlockRef { volume, kind, inode: INodeIndex(1), index: BlockIndex(index as u64) }
    }

    #[test]
    fn the_latest_are_remembered() {
        let mut deleted = Deleted::default();
        (0..LIMIT + 10).for_each(|index| deleted.note(block(index)));
        let known = [9, 10, LIMIT + 9, LIMIT + 10].map(|index| deleted.has(block(index)));
        assert_eq!(known, [false, true, true, false]);
        assert_eq!((deleted.order.len(), deleted.blocks.len()), (LIMIT, LIMIT));
        deleted.forget(block(10));
        assert!(!deleted.has(block(10)));
    }
}
