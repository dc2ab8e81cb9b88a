//! Values that the tests start from.

use torus_blockstore::{BlockSpec, PeerId};

use crate::{Command, GlobalMetadata, Peer, Ring, RingKind, RingMember, RingVersion};

pub(crate) fn init() -> Command {
    let global = GlobalMetadata {
        cluster: uuid::Uuid::from_u128(0xc1),
        block_size: 512 << 10,
        block_spec: BlockSpec::default(),
    };
    Command::Init { global, ring: ring(1, &[]) }
}

pub(crate) fn create(name: &str) -> Command {
    Command::CreateVolume { name: name.to_owned(), size: 1 << 30, spec: None }
}

pub(crate) fn peer_id(number: u128) -> PeerId {
    PeerId(uuid::Uuid::from_u128(number))
}

pub(crate) fn peer(number: u128) -> Peer {
    Peer {
        id: peer_id(number),
        address: format!("127.0.0.1:{}", 40_000 + number),
        zone: String::new(),
        size_blocks: 100,
        node: None,
    }
}

/// A ring of these peers with replication 2.
pub(crate) fn ring(version: u64, peers: &[u128]) -> Ring {
    let member = |number| RingMember { peer: peer_id(number), weight: 100, zone: String::new() };
    Ring {
        version: RingVersion(version),
        kind: RingKind::Ketama,
        replication: 2,
        members: peers.iter().map(|number| member(*number)).collect(),
    }
}
