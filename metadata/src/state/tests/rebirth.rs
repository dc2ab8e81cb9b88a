//! Another group goes on with a state.

use torus_blockstore::{Epoch, INodeIndex, VolumeId};

use crate::fixtures::{create, init, peer, peer_id, ring};
use crate::{
    Answer, Command, Event, FeatureLevel, Outcome, Query, Refusal, Revision, RingVersion,
    SessionId, State,
};

/// In 2026.
const NOW_MS: u64 = 1_795_000_000_000;
const SECONDS: u64 = 217_163_200;

/// A state with a volume that is locked and being read, a ring and a peer.
fn lived() -> State {
    let mut state = State::default();
    let volume = VolumeId::new(1).unwrap();
    let commands = [
        init(),
        Command::AllocateNode { peer: peer_id(1) },
        Command::RegisterPeer(peer(1)),
        Command::SetRing(ring(2, &[1])),
        create("disk"),
        create("gone"),
        Command::DeleteVolume { volume: VolumeId::new(2).unwrap(), force: false },
        Command::OpenSession { owner: "host".to_owned(), ttl_ms: 1000 },
        Command::LockVolume { volume, session: SessionId(8) },
        Command::ReserveINodes { volume, epoch: Epoch(1), count: 3 },
    ];
    for (index, command) in (1..).zip(commands) {
        state.apply(index, command).0.unwrap();
    }
    state
}

#[test]
fn what_the_former_group_granted_stays_below_what_comes() {
    let former = lived();
    let mut state = former.clone();
    state.begin_generation(NOW_MS);
    assert_eq!((former.generation(), state.generation()), (1, 2));
    let volume = VolumeId::new(1).unwrap();
    let (old, new) = (&former.volumes[&volume], &state.volumes[&volume]);
    assert_eq!(new.epoch, Epoch(SECONDS << 20));
    assert_eq!(new.inode_index, INodeIndex(SECONDS << 20));
    assert!(new.snapshots_minted > old.snapshots_minted && !new.is_clean);
    assert_eq!(state.revision(), Revision(SECONDS << 20));
    assert_eq!(state.ring, RingVersion(SECONDS));
    let present = &state.rings[&state.ring];
    assert_eq!(
        (present.version, &present.members),
        (state.ring, &former.rings[&former.ring].members)
    );
    assert_eq!(state.rings.len(), 1, "no window names the former one");

    // Nobody has anything of the former group.
    assert_eq!((new.lock.as_ref(), state.sessions().count()), (None, 0));
    assert!(state.nodes.is_empty() && state.peers.values().all(|peer| peer.node.is_none()));
    let stale = Command::ReserveINodes { volume, epoch: old.epoch, count: 1 };
    assert!(matches!(state.apply(50, stale).0, Err(Refusal::StaleEpoch { .. })));
    let opened = Command::OpenSession { owner: "host".to_owned(), ttl_ms: 1000 };
    let session = state.apply(51, opened).0.unwrap().outcome;
    let Outcome::Session(session) = session else { panic!("{session:?}") };
    assert!(session.0 > SECONDS << 20);
    let lock = state.apply(52, Command::LockVolume { volume, session }).0.unwrap().outcome;
    assert_eq!(lock, Outcome::Epoch(Epoch((SECONDS << 20) + 1)));
}

#[test]
fn volumes_that_may_have_come_since_are_lost_until_somebody_says_otherwise() {
    let mut state = lived();
    state.begin_generation(NOW_MS);
    let lost = |state: &State| match state.answer(&Query::Volumes) {
        Answer::Volumes { lost, volumes_minted, .. } => (lost, volumes_minted),
        other => panic!("{other:?}"),
    };
    let (first, second) = (SECONDS << 8, (SECONDS + 60) << 8);
    assert_eq!(lost(&state), (vec![3..=first], first));
    let created = state.apply(50, create("new")).0.unwrap().outcome;
    let Outcome::Volume(created) = created else { panic!("{created:?}") };
    assert_eq!(created.id.get(), first + 1);
    state.begin_generation(NOW_MS + 60_000);
    assert_eq!(lost(&state).0, [3..=first, first + 2..=second]);

    let refused = state.apply(51, Command::ForgetLostVolumes).0;
    let (needed, present) = (FeatureLevel(2), FeatureLevel(1));
    assert_eq!(refused, Err(Refusal::Level { needed, present }));
    state.level = FeatureLevel(2);
    let (done, events) = state.apply(52, Command::ForgetLostVolumes);
    assert!(done.is_ok() && lost(&state).0.is_empty());
    let first = [3, first + 2].map(|id| Event::VolumeDeleted(VolumeId::new(id).unwrap()));
    assert_eq!(events, first);
    let before = state.revision();
    state.apply(53, Command::ForgetLostVolumes).0.unwrap();
    assert_eq!(state.revision(), before, "there was nothing more to forget");
}

#[test]
fn volume_ids_end_where_they_end() {
    let mut state = lived();
    state.volumes_minted = (1 << 40) - 5;
    state.begin_generation(NOW_MS);
    state.begin_generation(NOW_MS);
    assert_eq!(state.volumes_minted, (1 << 40) - 1);
    assert_eq!(state.lost, [(1 << 40) - 4..=(1 << 40) - 1]);
    let refused = state.apply(50, create("new")).0;
    assert_eq!(refused, Err(Refusal::VOLUMES_EXHAUSTED));
}

/// All that a state grants next, one after another.
fn next(state: &State) -> [u64; 6] {
    let volume = &state.volumes[&VolumeId::new(1).unwrap()];
    [
        state.revision.0,
        volume.epoch.0,
        volume.inode_index.0,
        volume.snapshots_minted.0,
        state.volumes_minted,
        state.ring.0,
    ]
}

#[test]
fn one_state_that_is_gone_on_with_twice_grants_nothing_twice() {
    let mut lives = Vec::new();
    // The same moment, which is that of a backup; and one that a group had which came of it.
    for at in [NOW_MS, NOW_MS + 1000] {
        let mut state = lived();
        state.begin_generation(at);
        lives.push(next(&state));
        state.begin_generation(at + 500_000);
        lives.push(next(&state));
    }
    let [first, its_child, second, another_child] = lives[..] else { panic!("{lives:?}") };
    let mut order = [first, second, its_child, another_child];
    for kind in 0..first.len() {
        assert!(order.is_sorted_by(|a, b| a[kind] < b[kind]), "{kind}: {order:?}");
    }
    // A clock that stands back leaps all the same.
    let mut state = lived();
    state.begin_generation(NOW_MS);
    let before = next(&state);
    state.begin_generation(0);
    order[0] = next(&state);
    assert!((0..first.len()).all(|kind| order[0][kind] > before[kind]));
}
