//! Clones: volumes that begin with another's snapshot, and need it until nothing of theirs points
//! into its blocks.

use torus_blockstore::{BlockIndex, Epoch, INodeIndex, VolumeId};

use super::volumes::NewVolume;
use super::{Change, State, asks};
use crate::{AskId, Event, Head, LogPosition, Parent, Refusal, Snapshot, SnapshotId, Volume};

/// Where the log of a volume that has written nothing goes on: before its first generation.
const LOG_START: LogPosition =
    LogPosition { inode: INodeIndex(0), block: BlockIndex(0), offset: 0 };

impl State {
    pub(super) fn clone_volume(
        &mut self,
        volume: VolumeId,
        snapshot: SnapshotId,
        name: String,
    ) -> Result<Change, Refusal> {
        let parent = self.volume(volume)?;
        let Snapshot { size, head, .. } = parent.snapshot(snapshot)?;
        let head = Head { epoch: Epoch(0), position: LOG_START, ..head.clone() };
        self.add_volume(NewVolume {
            name,
            size: *size,
            block_spec: Some(parent.block_spec.clone()),
            head: Some(head),
            parent: Some(Parent { volume, snapshot, needed_by_head: true }),
        })
    }

    pub(super) fn commit_flattened(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        ask: Option<AskId>,
    ) -> Result<Change, Refusal> {
        let volume = self.volume_of_epoch(volume, epoch)?;
        if volume.head.as_ref().is_some_and(|head| head.volume != volume.id) {
            return Err(Refusal::FLATTEN_HEAD);
        }
        asks::answer(volume, ask)?;
        let needed = volume.parent.as_mut().map(|parent| &mut parent.needed_by_head);
        let was_needed = needed.is_some_and(std::mem::take);
        if ask.is_none() && !was_needed {
            return Change::nothing();
        }
        forget_parent(volume);
        Change::done(vec![Event::VolumeChanged(volume.clone())])
    }

    /// Whether no volume was made from `snapshot` of `volume` and still needs it.
    pub(super) fn check_no_clones(
        &self,
        volume: &Volume,
        snapshot: &Snapshot,
    ) -> Result<(), Refusal> {
        let parent = |clone: &Volume| clone.parent.map(|parent| (parent.volume, parent.snapshot));
        let of_it = |clone: &&Volume| parent(clone) == Some((volume.id, snapshot.id));
        match self.volumes.values().filter(of_it).count() as u64 {
            0 => Ok(()),
            clones => {
                let (volume, snapshot) = (volume.name.clone(), snapshot.name.clone());
                Err(Refusal::HasClones { volume, snapshot, clones })
            }
        }
    }
}

/// Lets the parent go once neither the head nor a snapshot needs it.
pub(super) fn forget_parent(volume: &mut Volume) {
    let by_snapshots = volume.snapshots.iter().any(|snapshot| snapshot.needs_parent);
    volume.parent.take_if(|parent| !parent.needed_by_head && !by_snapshots);
}
