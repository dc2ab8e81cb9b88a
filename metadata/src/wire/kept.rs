//! The things that the metadata service keeps.

use torus_blockstore::{BlockIndex, BlockSpec, Epoch, INodeIndex};

use super::{Malformed, all, optional, peer_id, proto, required, volume_id};
use crate::{
    GlobalMetadata, Head, Lock, LogPosition, NodeId, Peer, Ring, RingKind, RingMember, RingVersion,
    Session, SessionId, Volume, Window,
};

impl From<GlobalMetadata> for proto::Global {
    fn from(global: GlobalMetadata) -> Self {
        Self {
            cluster: global.cluster.as_bytes().to_vec(),
            block_size: global.block_size,
            block_spec: global.block_spec.to_string(),
        }
    }
}

impl TryFrom<proto::Global> for GlobalMetadata {
    type Error = Malformed;

    fn try_from(global: proto::Global) -> Result<Self, Malformed> {
        Ok(Self {
            cluster: uuid::Uuid::from_slice(&global.cluster)
                .map_err(|_| Malformed { what: "a cluster's name" })?,
            block_size: global.block_size,
            block_spec: block_spec(&global.block_spec)?,
        })
    }
}

impl From<Peer> for proto::Peer {
    fn from(peer: Peer) -> Self {
        Self {
            id: peer.id.encode().to_vec(),
            address: peer.address,
            zone: peer.zone,
            size_blocks: peer.size_blocks,
            node: peer.node.map(|node| node.0),
        }
    }
}

impl TryFrom<proto::Peer> for Peer {
    type Error = Malformed;

    fn try_from(peer: proto::Peer) -> Result<Self, Malformed> {
        Ok(Self {
            id: peer_id(&peer.id)?,
            address: peer.address,
            zone: peer.zone,
            size_blocks: peer.size_blocks,
            node: peer.node.map(NodeId),
        })
    }
}

impl From<RingKind> for proto::RingKind {
    fn from(kind: RingKind) -> Self {
        match kind {
            RingKind::Empty => Self::Empty,
            RingKind::Single => Self::Single,
            RingKind::Mod => Self::Mod,
            RingKind::Ketama => Self::Ketama,
        }
    }
}

impl TryFrom<proto::RingKind> for RingKind {
    type Error = Malformed;

    fn try_from(kind: proto::RingKind) -> Result<Self, Malformed> {
        match kind {
            proto::RingKind::Empty => Ok(Self::Empty),
            proto::RingKind::Single => Ok(Self::Single),
            proto::RingKind::Mod => Ok(Self::Mod),
            proto::RingKind::Ketama => Ok(Self::Ketama),
            proto::RingKind::Unspecified => Err(Malformed { what: "a ring's kind" }),
        }
    }
}

impl From<RingMember> for proto::RingMember {
    fn from(member: RingMember) -> Self {
        let RingMember { peer, weight, zone } = member;
        Self { peer: peer.encode().to_vec(), weight, zone }
    }
}

impl TryFrom<proto::RingMember> for RingMember {
    type Error = Malformed;

    fn try_from(member: proto::RingMember) -> Result<Self, Malformed> {
        let proto::RingMember { peer, weight, zone } = member;
        Ok(Self { peer: peer_id(&peer)?, weight, zone })
    }
}

impl From<Ring> for proto::Ring {
    fn from(ring: Ring) -> Self {
        Self {
            version: ring.version.0,
            kind: proto::RingKind::from(ring.kind).into(),
            replication: ring.replication,
            members: ring.members.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::Ring> for Ring {
    type Error = Malformed;

    fn try_from(ring: proto::Ring) -> Result<Self, Malformed> {
        Ok(Self {
            version: RingVersion(ring.version),
            kind: ring.kind().try_into()?,
            replication: ring.replication,
            members: all(ring.members)?,
        })
    }
}

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
        }
    }
}

impl TryFrom<proto::Head> for Head {
    type Error = Malformed;

    fn try_from(head: proto::Head) -> Result<Self, Malformed> {
        Ok(Self {
            inode: INodeIndex(head.inode),
            blocks: head.blocks,
            epoch: Epoch(head.epoch),
            position: required(head.position, "a head's position")?.try_into()?,
        })
    }
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
        }
    }
}

impl TryFrom<proto::Volume> for Volume {
    type Error = Malformed;

    fn try_from(volume: proto::Volume) -> Result<Self, Malformed> {
        Ok(Self {
            id: volume_id(volume.id)?,
            name: volume.name,
            size: volume.size,
            block_spec: block_spec(&volume.block_spec)?,
            inode_index: INodeIndex(volume.inode_index),
            head: optional(volume.head)?,
            windows: all(volume.windows)?,
            epoch: Epoch(volume.epoch),
            lock: volume.lock.map(Into::into),
        })
    }
}

impl From<Session> for proto::Session {
    fn from(session: Session) -> Self {
        let Session { id, owner, ttl_ms } = session;
        Self { id: id.0, owner, ttl_ms }
    }
}

impl From<proto::Session> for Session {
    fn from(session: proto::Session) -> Self {
        let proto::Session { id, owner, ttl_ms } = session;
        Self { id: SessionId(id), owner, ttl_ms }
    }
}

pub(super) fn block_spec(text: &str) -> Result<BlockSpec, Malformed> {
    text.parse().map_err(|_| Malformed { what: "a block spec" })
}
