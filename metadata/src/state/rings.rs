//! The ring: replaced by compare-and-swap, and remembered while an open window names it.

use std::collections::BTreeSet;

use super::{Change, State};
use crate::{Event, Refusal, Ring, RingKind, RingVersion};

const REPLICATION_MAX: u32 = 16;

impl State {
    pub(super) fn set_ring(&mut self, ring: Ring) -> Result<Change, Refusal> {
        if ring.version.0 != self.ring.0 + 1 {
            return Err(Refusal::RingVersion { current: self.ring, found: ring.version });
        }
        validate(&ring)?;
        let old = self.rings.get(&self.ring);
        for member in &ring.members {
            let stays = old.is_some_and(|old| old.members.iter().any(|m| m.peer == member.peer));
            if !stays && !self.peers.contains_key(&member.peer) {
                return Err(Refusal::NoSuchPeer);
            }
        }
        let replaced = std::mem::replace(&mut self.ring, ring.version);
        self.rings.insert(ring.version, ring.clone());
        self.forget_rings(&BTreeSet::from([replaced]));
        Change::done(vec![Event::RingChanged(ring)])
    }

    /// Drops those of `candidates` that are neither the present ring nor named by a window.
    pub(super) fn forget_rings(&mut self, candidates: &BTreeSet<RingVersion>) {
        for version in candidates {
            let named = || {
                self.volumes
                    .values()
                    .any(|v| v.windows.iter().any(|window| window.ring == *version))
            };
            if *version != self.ring && !named() {
                self.rings.remove(version);
            }
        }
    }
}

/// Checks what can be told from the ring alone.
pub(crate) fn validate(ring: &Ring) -> Result<(), Refusal> {
    if !(1..=REPLICATION_MAX).contains(&ring.replication) {
        return Err(Refusal::REPLICATION);
    }
    let peers: BTreeSet<_> = ring.members.iter().map(|member| member.peer).collect();
    if peers.len() != ring.members.len() {
        return Err(Refusal::RING_TWICE);
    }
    if ring.members.iter().any(|member| member.weight == 0) {
        return Err(Refusal::RING_WEIGHT);
    }
    match (ring.kind, ring.members.len()) {
        (RingKind::Empty, 1..) => Err(Refusal::RING_EMPTY),
        (RingKind::Single, 0 | 2..) => Err(Refusal::RING_SINGLE),
        _ => Ok(()),
    }
}
