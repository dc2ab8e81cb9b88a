//! The rings that follow the present one: pure functions.

use torus_blockstore::PeerId;
use torus_metadata::{Peer, Ring, RingKind, RingMember, RingVersion};

use super::kind_name;
use crate::failure::Failure;

/// The ring with these peers too, none of which it has. An empty ring becomes a ketama ring.
pub(in crate::ctl) fn with_peers(ring: &Ring, peers: &[&Peer]) -> Result<Ring, Failure> {
    let kind = match ring.kind {
        RingKind::Empty => RingKind::Ketama,
        RingKind::Single => {
            return Err(Failure::failed(
                "the ring is of type single and has one peer; 'torusctl ring manual-change --type \
                 ketama --all-peers' makes one for many",
            ));
        }
        kind @ (RingKind::Mod | RingKind::Ketama) => kind,
    };
    let mut ring = Ring { version: next(ring), kind, ..ring.clone() };
    ring.members.extend(peers.iter().copied().map(member));
    Ok(ring)
}

/// The ring without these peers.
pub(in crate::ctl) fn without_peers(ring: &Ring, peers: &[PeerId]) -> Ring {
    let mut ring = Ring { version: next(ring), ..ring.clone() };
    ring.members.retain(|member| !peers.contains(&member.peer));
    if ring.kind == RingKind::Single && ring.members.is_empty() {
        ring.kind = RingKind::Empty;
    }
    ring
}

/// The ring with so many copies; `None` if it has them.
pub(super) fn with_replication(ring: &Ring, replication: u32) -> Result<Option<Ring>, Failure> {
    if matches!(ring.kind, RingKind::Empty | RingKind::Single) {
        return Err(Failure::failed(format!(
            "a ring of type {} has no replication; 'torusctl ring manual-change' makes another",
            kind_name(ring.kind)
        )));
    }
    let changed = Ring { version: next(ring), replication, ..ring.clone() };
    Ok((ring.replication != replication).then_some(changed))
}

/// Another ring in place of the present one. Peers that stay keep their weight.
pub(super) fn replace(present: &Ring, kind: RingKind, replication: u32, peers: &[&Peer]) -> Ring {
    let member = |peer: &&Peer| {
        let known = present.members.iter().find(|member| member.peer == peer.id);
        known.cloned().unwrap_or_else(|| member(peer))
    };
    let members = peers.iter().map(member).collect();
    Ring { version: next(present), kind, replication, members }
}

fn member(peer: &Peer) -> RingMember {
    RingMember { peer: peer.id, weight: peer.size_blocks, zone: peer.zone.clone() }
}

fn next(ring: &Ring) -> RingVersion {
    RingVersion(ring.version.0 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::peer::tests::peer;
    use crate::ctl::ring::summary;
    use expect_test::{Expect, expect};

    fn ring(kind: RingKind, peers: &[&Peer]) -> Ring {
        let members = peers.iter().copied().map(member).collect();
        Ring { version: RingVersion(4), kind, replication: 2, members }
    }

    #[track_caller]
    fn check(found: Result<Ring, Failure>, expected: Expect) {
        expected.assert_eq(&found.map_or_else(|failure| failure.line(), |ring| summary(&ring)));
    }

    #[test]
    fn peers_come_into_rings_that_can_have_them() {
        let (one, two) = (peer(1), peer(2));
        check(
            with_peers(&ring(RingKind::Empty, &[]), &[&one, &two]),
            expect!["The ring is at version 5: ketama, replication 2, 2 peers."],
        );
        check(
            with_peers(&ring(RingKind::Mod, &[&one]), &[&two]),
            expect!["The ring is at version 5: mod, replication 2, 2 peers."],
        );
        check(
            with_peers(&ring(RingKind::Single, &[&one]), &[&two]),
            expect![
                "the ring is of type single and has one peer; 'torusctl ring manual-change --type ketama --all-peers' makes one for many"
            ],
        );
    }

    #[test]
    fn peers_go() {
        let (one, two) = (peer(1), peer(2));
        check(
            Ok(without_peers(&ring(RingKind::Ketama, &[&one, &two]), &[two.id])),
            expect!["The ring is at version 5: ketama, replication 2, 1 peer."],
        );
        check(
            Ok(without_peers(&ring(RingKind::Single, &[&one]), &[one.id])),
            expect!["The ring is at version 5: empty, replication 2, 0 peers."],
        );
    }

    #[test]
    fn the_same_replication_is_no_change() {
        let one = peer(1);
        let ketama = ring(RingKind::Ketama, &[&one]);
        assert!(with_replication(&ketama, 2).unwrap().is_none());
        check(
            with_replication(&ketama, 3).map(Option::unwrap),
            expect!["The ring is at version 5: ketama, replication 3, 1 peer."],
        );
        check(
            with_replication(&ring(RingKind::Empty, &[]), 3).map(Option::unwrap),
            expect![
                "a ring of type empty has no replication; 'torusctl ring manual-change' makes another"
            ],
        );
    }

    #[test]
    fn who_stays_keeps_its_weight() {
        let mut one = peer(1);
        let present = ring(RingKind::Ketama, &[&one]);
        one.size_blocks *= 2;
        let two = peer(2);
        let found = replace(&present, RingKind::Mod, 1, &[&one, &two]);
        let weights: Vec<_> = found.members.iter().map(|member| member.weight).collect();
        assert_eq!(weights, [40960, 40960]);
    }
}
