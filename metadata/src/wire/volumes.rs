//! Volumes, with all that belongs to one.

use torus_blockstore::{BlockIndex, Epoch, INodeIndex, VolumeId};

use super::kept::block_spec;
use super::{Malformed, all, optional, peer_id, proto, required, volume_id};
use crate::{
    Head, Lock, LogPosition, Parent, RingVersion, SessionId, Snapshot, SnapshotId, Volume, Window,
};

impl From<LogPosition> for proto::Position {
    fn from(position: LogPosition) -> Self {
        let LogPosition { inode, block, offset } = position;
        Self { inode: inode.0, block: block.0, offset }
    }
}

impl TryFrom<proto::Position> for LogPosition {
    type Error = Malformed;

    fn try_from(position: proto::Position) -> Result<Self, Malformed> {
        let proto::Position { inode, block, offset } = position;
        Ok(Self { inode: INodeIndex(inode), block: BlockIndex(block), offset })
    }
}

impl From<Head> for proto::Head {
    fn from(head: Head) -> Self {
        Self {
            inode: head.inode.0,
            blocks: head.blocks,
            epoch: head.epoch.0,
            position: Some(head.position.into()),
            volume: head.volume.get(),
        }
    }
}

/// A head of the volume `own`; before there were clones, every INode was the volume's own.
pub(super) fn head_of(own: VolumeId, head: proto::Head) -> Result<Head, Malformed> {
    Ok(Head {
        volume: if head.volume == 0 { own } else { volume_id(head.volume)? },
        inode: INodeIndex(head.inode),
        blocks: head.blocks,
        epoch: Epoch(head.epoch),
        position: required(head.position, "a head's position")?.try_into()?,
    })
}

impl From<Window> for proto::Window {
    fn from(window: Window) -> Self {
        Self {
            epoch: window.epoch.0,
            inode: window.inode.0,
            ring: window.ring.0,
            excluded: window.excluded.iter().map(|peer| peer.encode().to_vec()).collect(),
            first: window.first.0,
            count: window.count,
            after: window.after.map(Into::into),
        }
    }
}

impl TryFrom<proto::Window> for Window {
    type Error = Malformed;

    fn try_from(window: proto::Window) -> Result<Self, Malformed> {
        Ok(Self {
            epoch: Epoch(window.epoch),
            inode: INodeIndex(window.inode),
            ring: RingVersion(window.ring),
            excluded: window.excluded.iter().map(|p| peer_id(p)).collect::<Result<_, _>>()?,
            first: BlockIndex(window.first),
            count: window.count,
            after: optional(window.after)?,
        })
    }
}

impl From<Lock> for proto::Lock {
    fn from(lock: Lock) -> Self {
        let Lock { session, epoch, owner } = lock;
        Self { session: session.0, epoch: epoch.0, owner }
    }
}

impl From<proto::Lock> for Lock {
    fn from(lock: proto::Lock) -> Self {
        let proto::Lock { session, epoch, owner } = lock;
        Self { session: SessionId(session), epoch: Epoch(epoch), owner }
    }
}

impl From<Snapshot> for proto::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            id: snapshot.id.0,
            name: snapshot.name,
            size: snapshot.size,
            head: Some(snapshot.head.into()),
            created_ms: snapshot.created_ms,
            needs_parent: snapshot.needs_parent,
            readers: snapshot.readers.into_iter().map(|session| session.0).collect(),
        }
    }
}

/// A snapshot of the volume `own`.
fn snapshot_of(own: VolumeId, snapshot: proto::Snapshot) -> Result<Snapshot, Malformed> {
    Ok(Snapshot {
        id: SnapshotId(snapshot.id),
        name: snapshot.name,
        size: snapshot.size,
        head: head_of(own, required(snapshot.head, "a snapshot's head")?)?,
        created_ms: snapshot.created_ms,
        needs_parent: snapshot.needs_parent,
        readers: snapshot.readers.into_iter().map(SessionId).collect(),
    })
}

impl From<Parent> for proto::Parent {
    fn from(parent: Parent) -> Self {
        let Parent { volume, snapshot, needed_by_head } = parent;
        Self { volume: volume.get(), snapshot: snapshot.0, needed_by_head }
    }
}

impl TryFrom<proto::Parent> for Parent {
    type Error = Malformed;

    fn try_from(parent: proto::Parent) -> Result<Self, Malformed> {
        let proto::Parent { volume, snapshot, needed_by_head } = parent;
        let (volume, snapshot) = (volume_id(volume)?, SnapshotId(snapshot));
        Ok(Self { volume, snapshot, needed_by_head })
    }
}

impl From<Volume> for proto::Volume {
    fn from(volume: Volume) -> Self {
        Self {
            id: volume.id.get(),
            name: volume.name,
            size: volume.size,
            block_spec: volume.block_spec.to_string(),
            inode_index: volume.inode_index.0,
            head: volume.head.map(Into::into),
            windows: volume.windows.into_iter().map(Into::into).collect(),
            epoch: volume.epoch.0,
            lock: volume.lock.map(Into::into),
            snapshots_minted: volume.snapshots_minted.0,
            snapshots: volume.snapshots.into_iter().map(Into::into).collect(),
            parent: volume.parent.map(Into::into),
            retired: volume.retired.into_iter().map(Into::into).collect(),
            asks: volume.asks.into_iter().map(Into::into).collect(),
            answers: volume.answers.into_iter().map(Into::into).collect(),
            is_clean: volume.is_clean,
        }
    }
}

impl TryFrom<proto::Volume> for Volume {
    type Error = Malformed;

    fn try_from(volume: proto::Volume) -> Result<Self, Malformed> {
        let id = volume_id(volume.id)?;
        let snapshots = volume.snapshots.into_iter();
        let retired = volume.retired.into_iter();
        Ok(Self {
            id,
            name: volume.name,
            size: volume.size,
            block_spec: block_spec(&volume.block_spec)?,
            inode_index: INodeIndex(volume.inode_index),
            head: volume.head.map(|head| head_of(id, head)).transpose()?,
            windows: all(volume.windows)?,
            epoch: Epoch(volume.epoch),
            lock: volume.lock.map(Into::into),
            snapshots_minted: SnapshotId(volume.snapshots_minted),
            snapshots: snapshots.map(|s| snapshot_of(id, s)).collect::<Result<_, _>>()?,
            parent: optional(volume.parent)?,
            retired: retired.map(|head| head_of(id, head)).collect::<Result<_, _>>()?,
            asks: all(volume.asks)?,
            answers: volume.answers.into_iter().map(Into::into).collect(),
            is_clean: volume.is_clean,
        })
    }
}
