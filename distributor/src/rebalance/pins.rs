//! Where the blocks of volumes belong, which must not leave this peer whatever the ring says, and
//! which belong to nobody: what one linearizable reading of the volumes tells.
//!
//! A block is its volume's own also where clones of the volume point at it. A volume's number of
//! copies never changes, and a deleted one never comes back: that much an old reading tells too.
//!
//! A block of an open window is looked for where its window names it, and nowhere else, when its
//! volume is recovered: there its absence means that the log ends. So it stays until a checkpoint
//! is past it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use torus_blockstore::{BlockKind, BlockRef, PeerId, VolumeId};
use torus_metadata::{RingVersion, Volume, Window};

use crate::Placer;

/// What the metadata said of all volumes at one moment.
pub(crate) struct Pins {
    volumes: BTreeMap<VolumeId, Volume>,
    /// The highest volume ID that was ever given.
    minted: u64,
    /// IDs that a former generation of the metadata may have given: of these nothing is known.
    lost: Vec<RangeInclusive<u64>>,
}

impl Pins {
    pub(crate) fn new(volumes: Vec<Volume>, minted: u64, lost: Vec<RangeInclusive<u64>>) -> Self {
        let volumes = volumes.into_iter().map(|volume| (volume.id, volume)).collect();
        Self { volumes, minted, lost }
    }

    /// Whether the volume was there once and is no more.
    pub(crate) fn is_deleted(&self, volume: VolumeId) -> bool {
        volume.get() <= self.minted
            && !self.volumes.contains_key(&volume)
            && !self.lost.iter().any(|ids| ids.contains(&volume.get()))
    }

    /// Whether the volume is there.
    pub(crate) fn is_known(&self, volume: VolumeId) -> bool {
        self.volumes.contains_key(&volume)
    }

    /// The places of a block in `ring`, less the excluded; `None` if its volume is not there.
    /// Neither this nor deleted: it is newer than the reading.
    pub(crate) fn places(
        &self,
        ring: &Placer,
        block: &BlockRef,
        excluded: &BTreeSet<PeerId>,
    ) -> Option<Vec<PeerId>> {
        let volume = self.volumes.get(&block.volume)?;
        Some(ring.places(block, excluded, volume.block_spec.copies()))
    }

    /// Whether blocks are being written to other places than those of the ring of this version.
    pub(crate) fn has_window_beside(&self, ring: RingVersion) -> bool {
        let mut windows = self.volumes.values().flat_map(|volume| &volume.windows);
        windows.any(|window| window.ring != ring || !window.excluded.is_empty())
    }

    /// The windows that say where `block` is, as far as no checkpoint is past it.
    pub(crate) fn windows_of(&self, block: &BlockRef) -> impl Iterator<Item = &Window> {
        let block = *block;
        let volume = self.volumes.get(&block.volume);
        let is_past = volume.and_then(|volume| volume.head.as_ref()).is_some_and(|head| {
            let position = &head.position;
            // A fresh clone's head stands in the log of another volume.
            head.volume == block.volume
                && position.inode == block.inode
                && block.index < position.block
        });
        let windows = volume.map_or(&[][..], |volume| &volume.windows[..]).iter();
        windows.filter(move |window| {
            let end = window.first.0.saturating_add(window.count);
            !is_past
                && block.kind == BlockKind::Data
                && window.inode == block.inode
                && (window.first.0..end).contains(&block.index.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block, volume};
    use torus_blockstore::{BlockIndex, BlockSpec, Epoch, INodeIndex};
    use torus_metadata::{Head, LogPosition, SnapshotId};

    /// Volume 1 with a window of blocks 0 to 7 and a head before block 4 of volume `owner`'s log.
    fn example(owner: u64) -> Volume {
        let inode = block(1).inode;
        let position = LogPosition { inode, block: BlockIndex(4), offset: 0 };
        let head = Head { volume: volume(owner), inode, blocks: 1, epoch: Epoch(1), position };
        let window = Window {
            epoch: Epoch(1),
            inode,
            ring: RingVersion(2),
            excluded: BTreeSet::new(),
            first: BlockIndex(0),
            count: 8,
            after: None,
        };
        Volume {
            id: volume(1),
            name: "disk".to_owned(),
            size: 1 << 20,
            block_spec: BlockSpec::default(),
            inode_index: INodeIndex(2),
            head: Some(head),
            windows: vec![window],
            epoch: Epoch(1),
            lock: None,
            snapshots_minted: SnapshotId(0),
            snapshots: Vec::new(),
            parent: None,
            retired: Vec::new(),
            asks: Vec::new(),
            answers: Vec::new(),
            is_clean: false,
        }
    }

    #[test]
    fn a_lost_volume_is_not_taken_for_a_deleted_one() {
        let pins = Pins::new(vec![example(1)], 9, vec![3..=5, 8..=8]);
        let deleted = (1..=10).filter(|id| pins.is_deleted(volume(*id)));
        assert_eq!(deleted.collect::<Vec<_>>(), [2, 6, 7, 9]);
    }

    #[test]
    fn only_a_head_of_the_volumes_own_is_past_a_block() {
        let counts = |owner| {
            let pins = Pins::new(vec![example(owner)], 1, Vec::new());
            [3, 4, 8].map(|index| pins.windows_of(&block(index)).count())
        };
        assert_eq!(counts(1), [0, 1, 0]);
        // A clone that has made no checkpoint: the position is one in its parent's log.
        assert_eq!(counts(2), [1, 1, 0]);
    }
}
