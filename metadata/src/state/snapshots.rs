//! Snapshots: heads that stay, under a name.
//!
//! A checkpoint that neither the head nor a snapshot names any more is *retired*: the writer frees
//! its blocks, as far as nothing else needs them, and says so.

use torus_blockstore::{Epoch, VolumeId};

use super::volumes::{NameFault, check_size, name_fault};
use super::{Change, State, asks, clones};
use crate::{AskId, Event, Head, Outcome, Refusal, SessionId, Snapshot, SnapshotId, Volume};

/// Snapshots of one volume: its record, which every change of it carries, stays below a megabyte.
const SNAPSHOTS_MAX: usize = 1024;

impl State {
    pub(super) fn commit_snapshot(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        (name, size): (String, u64),
        created_ms: u64,
        ask: Option<AskId>,
    ) -> Result<Change, Refusal> {
        let volume = self.volume_locked_by(volume, epoch)?;
        check_size(size)?;
        check_snapshot_name(volume, &name)?;
        check_room(volume)?;
        let head = volume.head.clone().ok_or(Refusal::HeadBehind)?;
        asks::answer(volume, ask)?;
        let id = SnapshotId(volume.snapshots_minted.0 + 1);
        volume.snapshots_minted = id;
        volume.snapshots.push(Snapshot {
            id,
            name,
            size,
            head,
            created_ms,
            needs_parent: volume.parent.is_some_and(|parent| parent.needed_by_head),
            readers: [].into(),
        });
        Change::with(Outcome::Snapshot(id), vec![Event::VolumeChanged(volume.clone())])
    }

    pub(super) fn restore_snapshot(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        snapshot: SnapshotId,
    ) -> Result<Change, Refusal> {
        let volume = self.volume_locked_by(volume, epoch)?;
        let Snapshot { size, head, needs_parent, .. } = volume.snapshot(snapshot)?.clone();
        let former = volume.head.take().ok_or(Refusal::HeadBehind)?;
        // The log goes on where it is: an older position would replay what came after the snapshot.
        volume.head = Some(Head { epoch, position: former.position, ..head });
        volume.size = size;
        retire(volume, former);
        if let Some(parent) = &mut volume.parent {
            parent.needed_by_head = needs_parent;
        }
        clones::forget_parent(volume);
        Change::done(vec![Event::VolumeChanged(volume.clone())])
    }

    pub(super) fn delete_snapshot(
        &mut self,
        id: VolumeId,
        snapshot: SnapshotId,
        force: bool,
    ) -> Result<Change, Refusal> {
        let volume = self.volume(id)?;
        let found = volume.snapshot(snapshot)?;
        self.check_no_clones(volume, found)?;
        if !force {
            volume.check_unread(found)?;
        }
        let head = found.head.clone();
        let volume = self.volume_mut(id)?;
        volume.snapshots.retain(|kept| kept.id != snapshot);
        retire(volume, head);
        clones::forget_parent(volume);
        Change::done(vec![Event::VolumeChanged(volume.clone())])
    }

    pub(super) fn pin_snapshot(
        &mut self,
        volume: VolumeId,
        snapshot: SnapshotId,
        session: SessionId,
    ) -> Result<Change, Refusal> {
        if !self.sessions.contains_key(&session) {
            return Err(Refusal::NoSuchSession);
        }
        let volume = self.volume_mut(volume)?;
        let found = volume.snapshots.iter_mut().find(|kept| kept.id == snapshot);
        match found.map(|snapshot| snapshot.readers.insert(session)) {
            Some(true) => Change::done(vec![Event::VolumeChanged(volume.clone())]),
            Some(false) => Change::nothing(),
            None => Err(Refusal::NoSuchSnapshot { volume: volume.name.clone() }),
        }
    }

    pub(super) fn commit_reclaimed(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        head: &Head,
    ) -> Result<Change, Refusal> {
        let volume = self.volume_of_epoch(volume, epoch)?;
        let Some(index) = volume.retired.iter().position(|retired| retired == head) else {
            return Change::nothing();
        };
        volume.retired.remove(index);
        Change::done(vec![Event::VolumeChanged(volume.clone())])
    }
}

impl Volume {
    pub(super) fn snapshot(&self, id: SnapshotId) -> Result<&Snapshot, Refusal> {
        let found = self.snapshots.iter().find(|snapshot| snapshot.id == id);
        found.ok_or_else(|| Refusal::NoSuchSnapshot { volume: self.name.clone() })
    }

    pub(super) fn check_unread(&self, snapshot: &Snapshot) -> Result<(), Refusal> {
        if snapshot.readers.is_empty() {
            return Ok(());
        }
        let (volume, snapshot) = (self.name.clone(), snapshot.name.clone());
        Err(Refusal::SnapshotInUse { volume, snapshot })
    }
}

impl Head {
    /// Whether it is the same checkpoint, wherever the log goes on behind it.
    pub(super) fn has_inode_of(&self, other: &Self) -> bool {
        self.inode_ref() == other.inode_ref()
    }
}

/// Whether `name` is one for a new snapshot.
pub(super) fn check_snapshot_name(volume: &Volume, name: &str) -> Result<(), Refusal> {
    match name_fault(name) {
        Some(NameFault::Length) => Err(Refusal::SNAPSHOT_NAME_LENGTH),
        Some(NameFault::Start) => Err(Refusal::SNAPSHOT_NAME_START),
        Some(NameFault::Character) => Err(Refusal::SNAPSHOT_NAME_CHARACTER),
        None if volume.snapshots.iter().any(|snapshot| snapshot.name == name) => {
            let (volume, snapshot) = (volume.name.clone(), name.to_owned());
            Err(Refusal::SnapshotExists { volume, snapshot })
        }
        None => Ok(()),
    }
}

pub(super) fn check_room(volume: &Volume) -> Result<(), Refusal> {
    if volume.snapshots.len() < SNAPSHOTS_MAX { Ok(()) } else { Err(Refusal::SNAPSHOT_LIMIT) }
}

/// Leaves a head to the writer to be reclaimed, unless its checkpoint is still needed or another
/// volume's to reclaim.
fn retire(volume: &mut Volume, head: Head) {
    let snapshots = volume.snapshots.iter().map(|snapshot| &snapshot.head);
    let needed = volume.head.iter().chain(snapshots).any(|kept| kept.has_inode_of(&head));
    if head.volume == volume.id && !needed {
        volume.retired.push(head);
    }
}
