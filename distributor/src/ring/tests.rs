//! Placements: golden ones, their balance, and how little a change moves.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::{Expect, expect};
use proptest::prelude::*;
use torus_blockstore::{BlockIndex, BlockKind, BlockRef, INodeIndex, PeerId, VolumeId};
use torus_metadata::{Ring, RingKind, RingMember, RingVersion};

use super::Placer;

fn peer(number: u128) -> PeerId {
    PeerId::decode(number.to_be_bytes())
}

fn block(index: u64) -> BlockRef {
    BlockRef {
        volume: VolumeId::new(1 + index % 3).unwrap(),
        kind: BlockKind::Data,
        inode: INodeIndex(7),
        index: BlockIndex(index),
    }
}

/// Members 1, 2, … of the given weights and zones.
fn ring(kind: RingKind, replication: u32, members: &[(u64, &str)]) -> Ring {
    let members = (1..).zip(members).map(|(number, &(weight, zone))| RingMember {
        peer: peer(number),
        weight,
        zone: zone.to_owned(),
    });
    Ring { version: RingVersion(1), kind, replication, members: members.collect() }
}

/// Prints the members' numbers for blocks 0, 1, …: the places, a bar, and the rest.
#[track_caller]
fn check(ring: &Ring, blocks: u64, expected: Expect) {
    let placer = Placer::new(ring);
    let number = |peer: &PeerId| peer.0.as_u128().to_string();
    let line = |index| {
        let order = placer.permutation(&block(index));
        let (places, rest) = order.split_at(placer.replication());
        let [places, rest] =
            [places, rest].map(|part| part.iter().map(number).collect::<Vec<_>>().join(" "));
        format!("{places} | {rest}").trim_end().to_owned()
    };
    expected.assert_eq(&(0..blocks).map(line).collect::<Vec<_>>().join("\n"));
}

#[test]
fn an_empty_ring_places_nothing() {
    check(&ring(RingKind::Empty, 2, &[]), 1, expect![" |"]);
    check(&ring(RingKind::Mod, 2, &[]), 1, expect![" |"]);
    check(&ring(RingKind::Ketama, 2, &[]), 1, expect![" |"]);
}

#[test]
fn a_single_ring_has_one_peer() {
    check(
        &ring(RingKind::Single, 3, &[(1, "")]),
        2,
        expect![[r#"
        1 |
        1 |"#]],
    );
}

#[test]
fn a_mod_ring_rotates() {
    check(
        &ring(RingKind::Mod, 2, &[(1, ""), (9, ""), (1, "")]),
        5,
        expect![[r#"
        1 2 | 3
        2 3 | 1
        3 1 | 2
        3 1 | 2
        3 1 | 2"#]],
    );
}

#[test]
fn golden_ketama_placements() {
    check(
        &ring(RingKind::Ketama, 2, &[(1, ""), (1, ""), (1, ""), (1, "")]),
        8,
        expect![[r#"
        4 1 | 2 3
        3 4 | 1 2
        4 2 | 1 3
        3 1 | 2 4
        3 1 | 4 2
        1 2 | 3 4
        3 2 | 1 4
        1 3 | 4 2"#]],
    );
}

#[test]
fn copies_go_to_distinct_zones() {
    check(
        &ring(RingKind::Ketama, 2, &[(1, "a"), (1, "a"), (1, "b"), (1, "b")]),
        8,
        expect![[r#"
            4 1 | 2 3
            3 1 | 4 2
            4 2 | 1 3
            3 1 | 2 4
            3 1 | 4 2
            1 3 | 2 4
            3 2 | 1 4
            1 3 | 4 2"#]],
    );
    check(
        &ring(RingKind::Ketama, 3, &[(1, "a"), (1, "a"), (1, "b")]),
        3,
        expect![[r#"
        1 3 2 |
        3 1 2 |
        2 3 1 |"#]],
    );
}

#[test]
fn a_lost_zone_is_replaced_by_a_third_one() {
    let ring = ring(RingKind::Ketama, 2, &[(1, "a"), (1, "a"), (1, "b"), (1, "c")]);
    let placer = Placer::new(&ring);
    for index in 0..500 {
        let places = placer.places(&block(index), &BTreeSet::from([peer(3)]), None);
        assert!(places.contains(&peer(4)), "{index}: {places:?}");
        assert!(!places.contains(&peer(3)), "{index}: {places:?}");
    }
}

#[test]
fn replication_is_no_more_than_the_members() {
    check(&ring(RingKind::Ketama, 5, &[(1, ""), (1, "")]), 1, expect!["1 2 |"]);
    check(&ring(RingKind::Mod, 0, &[(1, ""), (1, "")]), 1, expect!["1 | 2"]);
}

#[test]
fn a_volume_has_its_own_number_of_copies() {
    let members = [(1, "a"), (1, "a"), (1, "b"), (1, "c")];
    let count = |kind, copies| {
        let placer = Placer::new(&ring(kind, 2, &members));
        placer.places(&block(1), &BTreeSet::new(), copies).len()
    };
    let counts =
        |kind| [None, Some(0), Some(1), Some(3), Some(9)].map(|copies| count(kind, copies));
    assert_eq!(counts(RingKind::Ketama), [2, 1, 1, 3, 4]);
    assert_eq!(counts(RingKind::Mod), [2, 1, 1, 3, 4]);
    assert_eq!(counts(RingKind::Single), [1; 5]);
    assert_eq!(counts(RingKind::Empty), [0; 5]);
    let placer = Placer::new(&ring(RingKind::Ketama, 1, &members));
    for index in 0..100 {
        // Three zones: three copies miss none of them.
        let places = placer.places(&block(index), &BTreeSet::new(), Some(3));
        assert!([3, 4].map(peer).iter().all(|peer| places.contains(peer)), "{places:?}");
    }
}

#[test]
fn a_member_without_weight_is_asked_last() {
    let placer = Placer::new(&ring(RingKind::Ketama, 1, &[(0, ""), (1, ""), (1, "")]));
    for index in 0..100 {
        assert_eq!(placer.permutation(&block(index)).last(), Some(&peer(1)));
    }
}

fn first_places(placer: &Placer, blocks: u64) -> Vec<Vec<PeerId>> {
    (0..blocks).map(|index| placer.places(&block(index), &BTreeSet::new(), None)).collect()
}

#[test]
fn shares_follow_the_weights_within_six_percent() {
    let weights = [100, 100, 200, 400, 200];
    let members = weights.map(|weight| (weight, ""));
    let placer = Placer::new(&ring(RingKind::Ketama, 1, &members));
    let blocks = 100_000;
    let mut counts = BTreeMap::new();
    for places in first_places(&placer, blocks) {
        *counts.entry(places[0]).or_insert(0_u64) += 1;
    }
    for (number, weight) in (1..).zip(weights) {
        let ideal = blocks * weight / 1000;
        let found = counts[&peer(number)];
        assert!(found.abs_diff(ideal) * 100 < ideal * 6, "peer {number}: {found} of {ideal}");
    }
}

#[test]
fn a_join_moves_hardly_more_than_its_share() {
    let before = Placer::new(&ring(RingKind::Ketama, 2, &[(10, ""), (20, ""), (10, "")]));
    let after = Placer::new(&ring(RingKind::Ketama, 2, &[(10, ""), (20, ""), (10, ""), (10, "")]));
    let blocks = 50_000;
    let (mut moved, mut joined) = (0_u32, 0_u32);
    for (old, new) in first_places(&before, blocks).iter().zip(first_places(&after, blocks)) {
        moved += new.iter().filter(|peer| !old.contains(peer)).map(|_| 1).sum::<u32>();
        joined += u32::from(new.contains(&peer(4)));
    }
    // All copies that moved, against those that had to: the ones that the new peer holds now.
    assert!(moved >= joined);
    assert!((moved - joined) * 100 < joined * 15, "{moved} moved, {joined} had to");
}

proptest! {
    #[test]
    fn a_permutation_names_every_member_once(
        weights in proptest::collection::vec((0_u64..5, "[ab]?"), 1..8),
        replication in 0_u32..5,
        index: u64,
        kind in prop_oneof![Just(RingKind::Mod), Just(RingKind::Ketama)],
    ) {
        let members: Vec<_> = weights.iter().map(|(weight, zone)| (*weight, zone.as_str())).collect();
        let ring = ring(kind, replication, &members);
        let order = Placer::new(&ring).permutation(&block(index));
        prop_assert_eq!(order.len(), members.len());
        let placer = Placer::new(&ring);
        let places = |copies| placer.places(&block(index), &BTreeSet::new(), Some(copies));
        for copies in 1..8 {
            // More copies are the same and some more.
            prop_assert!(places(copies + 1).starts_with(&places(copies)));
        }
        prop_assert_eq!(order.into_iter().collect::<BTreeSet<_>>().len(), members.len());
    }
}
