//! The ring: which peers hold a block. A pure function from a block reference to all members of
//! the ring, the preferred first.
//!
//! The first peers of the permutation are the places of a block: as many as its volume has copies,
//! which is the ring's `replication` unless the volume asks for another number. The rest are where
//! a reader looks when it is not there. The kinds and what they do with the reference:
//!
//! | kind   | permutation                                                                     |
//! |--------|---------------------------------------------------------------------------------|
//! | empty  | nobody                                                                          |
//! | single | the first member                                                                |
//! | mod    | members in their stored order, rotated by CRC-32 of the 24 bytes modulo members |
//! | ketama | weighted consistent hashing, see [`ketama`]                                     |
//!
//! Where members carry zone labels, a ketama ring puts the copies of a block into as many zones as
//! there are; a member without a label counts as a zone of its own. The other kinds know no zones.
//!
//! Invariants: the permutation names every member once (single: only the first); it depends on
//! nothing but the ring and the reference; the golden placements in the tests never change.

mod ketama;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use torus_blockstore::{BlockRef, PeerId};
use torus_metadata::{Ring, RingKind, RingVersion};

/// A ring made ready for lookups.
#[derive(Debug)]
pub struct Placer {
    ring: Ring,
    points: ketama::Points,
}

impl Placer {
    /// Computes what lookups need: for ketama a sorted table, for the others nothing.
    pub fn new(ring: &Ring) -> Self {
        let points = match ring.kind {
            RingKind::Ketama => ketama::Points::new(&ring.members),
            RingKind::Empty | RingKind::Single | RingKind::Mod => ketama::Points::default(),
        };
        Self { ring: ring.clone(), points }
    }

    /// The ring as the metadata keeps it.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The version of the ring.
    pub fn version(&self) -> RingVersion {
        self.ring.version
    }

    /// How many peers hold a block: what the ring says, but no more than it has members.
    pub fn replication(&self) -> usize {
        self.copies(None)
    }

    /// As [`replication`](Self::replication), for a volume that asks for a number of its own.
    fn copies(&self, asked: Option<u32>) -> usize {
        let members = self.ring.members.len();
        match self.ring.kind {
            RingKind::Empty => 0,
            RingKind::Single => members.min(1),
            RingKind::Mod | RingKind::Ketama => {
                let copies = asked.unwrap_or(self.ring.replication).max(1);
                usize::try_from(copies).map_or(members, |copies| copies.min(members))
            }
        }
    }

    /// Whether the ring names `peer`.
    pub fn has_member(&self, peer: PeerId) -> bool {
        self.ring.members.iter().any(|member| member.peer == peer)
    }

    /// All members, in the order in which they are to hold or to be asked for `block`.
    pub fn permutation(&self, block: &BlockRef) -> Vec<PeerId> {
        self.order(block, &BTreeSet::new(), self.replication())
    }

    /// The peers that hold `block` when `excluded` are passed over: the permutation's first of the
    /// others, as many as the volume of the block asks for (`copies`) or else the ring.
    pub fn places(
        &self,
        block: &BlockRef,
        excluded: &BTreeSet<PeerId>,
        copies: Option<u32>,
    ) -> Vec<PeerId> {
        let copies = self.copies(copies);
        let mut peers = self.order(block, excluded, copies);
        peers.truncate(copies);
        peers
    }

    /// Zones are spread after the exclusion, so that a block whose peer is lost goes to a zone that
    /// has no copy yet.
    fn order(&self, block: &BlockRef, excluded: &BTreeSet<PeerId>, copies: usize) -> Vec<PeerId> {
        let members = &self.ring.members;
        let walk = match self.ring.kind {
            RingKind::Empty => Vec::new(),
            RingKind::Single => (0..members.len().min(1)).collect(),
            RingKind::Mod => rotation(block, members.len()),
            RingKind::Ketama => self.points.walk(block, members.len()),
        };
        let walk = walk.into_iter().filter(|&at| !excluded.contains(&members[at].peer));
        let order = match self.ring.kind {
            RingKind::Ketama => spread(walk, copies, |at| &members[at].zone),
            RingKind::Empty | RingKind::Single | RingKind::Mod => walk.collect(),
        };
        order.into_iter().map(|at| members[at].peer).collect()
    }
}

fn rotation(block: &BlockRef, members: usize) -> Vec<usize> {
    let hash = u64::from(crc32fast::hash(&block.encode()));
    let Some(start) = hash.checked_rem(members as u64) else {
        return Vec::new();
    };
    let start = usize::try_from(start).unwrap_or_default();
    (start..members).chain(0..start).collect()
}

/// Moves members forward so that the first `copies` lie in distinct zones, as far as there are
/// zones; otherwise the order of the walk stays.
fn spread<'a>(
    walk: impl Iterator<Item = usize>,
    copies: usize,
    zone: impl Fn(usize) -> &'a str,
) -> Vec<usize> {
    let mut zones = BTreeSet::new();
    let mut chosen = Vec::new();
    let mut passed = Vec::new();
    for at in walk {
        let label = zone(at);
        let fresh = label.is_empty() || zones.insert(label);
        if fresh && chosen.len() < copies { chosen.push(at) } else { passed.push(at) }
    }
    chosen.extend(passed);
    chosen
}
