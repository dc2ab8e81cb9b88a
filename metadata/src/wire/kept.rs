//! The things that the metadata service keeps, but for volumes.

use torus_blockstore::BlockSpec;

use super::{Malformed, all, peer_id, proto};
use crate::{
    GlobalMetadata, NodeId, Peer, Ring, RingKind, RingMember, RingVersion, Session, SessionId,
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
