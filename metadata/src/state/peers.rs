//! Storage nodes: their registration and their identities in the Raft group.

use std::collections::BTreeSet;

use torus_blockstore::PeerId;

use super::{Change, State};
use crate::{Event, NodeId, Outcome, Peer, Refusal};

const TEXT_MAX: usize = 255;

impl State {
    /// Whether all of these are registered.
    pub(crate) fn has_peers(&self, peers: &BTreeSet<PeerId>) -> bool {
        peers.iter().all(|peer| self.peers.contains_key(peer))
    }

    /// `node` is the command's place in the log, so no two allocations give the same.
    pub(super) fn allocate_node(&mut self, node: NodeId, peer: PeerId) -> Result<Change, Refusal> {
        self.nodes.insert(peer, node);
        let events = match self.peers.get_mut(&peer) {
            Some(known) => {
                known.node = Some(node);
                vec![Event::PeerChanged(known.clone())]
            }
            None => Vec::new(),
        };
        Change::with(Outcome::Node(node), events)
    }

    /// Notes the identity of the daemon that goes on with this state alone.
    pub(crate) fn adopt(&mut self, peer: PeerId, node: NodeId) {
        self.nodes.insert(peer, node);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.node = Some(node);
        }
    }

    pub(super) fn register_peer(&mut self, mut peer: Peer) -> Result<Change, Refusal> {
        if peer.address.is_empty() || peer.address.len() > TEXT_MAX {
            return Err(Refusal::PEER_ADDRESS);
        }
        if peer.zone.len() > TEXT_MAX {
            return Err(Refusal::PEER_ZONE);
        }
        match peer.node {
            Some(node) => {
                self.nodes.insert(peer.id, node);
            }
            None => peer.node = self.nodes.get(&peer.id).copied(),
        }
        if self.peers.get(&peer.id) == Some(&peer) {
            return Change::nothing();
        }
        self.peers.insert(peer.id, peer.clone());
        Change::done(vec![Event::PeerChanged(peer)])
    }

    pub(super) fn remove_peer(&mut self, peer: PeerId) -> Result<Change, Refusal> {
        if !self.peers.contains_key(&peer) {
            return Err(Refusal::NoSuchPeer);
        }
        for (version, ring) in &self.rings {
            if ring.members.iter().any(|member| member.peer == peer) {
                // Recovery may need the peer's address as long as a window's ring names it.
                let present = *version == self.ring;
                return Err(if present { Refusal::PeerInRing } else { Refusal::PeerInWindow });
            }
        }
        self.peers.remove(&peer);
        self.nodes.remove(&peer);
        Change::done(vec![Event::PeerRemoved(peer)])
    }
}
