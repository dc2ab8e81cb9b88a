//! Any values of the types that are sent and kept.

use proptest::prelude::*;
use torus_blockstore::{BlockIndex, BlockSpec, Epoch, INodeIndex, PeerId, VolumeId};

use crate::fixtures;
use crate::{
    Ask, AskAnswer, AskId, Command, Event, FeatureLevel, Group, GroupPlace, Head, Lock,
    LogPosition, NodeId, Outcome, Parent, Peer, Query, Refusal, Ring, RingKind, RingMember,
    RingVersion, Session, SessionId, Snapshot, SnapshotId, Task, Volume, Window,
};

fn peers() -> impl Strategy<Value = PeerId> {
    any::<u128>().prop_map(fixtures::peer_id)
}

fn volume_ids() -> impl Strategy<Value = VolumeId> {
    (1u64..1 << 40).prop_map(|raw| VolumeId::new(raw).unwrap())
}

fn specs() -> impl Strategy<Value = BlockSpec> {
    prop_oneof![Just("crc"), Just("base"), Just("crc,rep=3")].prop_map(|text| text.parse().unwrap())
}

fn positions() -> impl Strategy<Value = LogPosition> {
    any::<(u64, u64, u32)>().prop_map(|(inode, block, offset)| LogPosition {
        inode: INodeIndex(inode),
        block: BlockIndex(block),
        offset,
    })
}

prop_compose! {
    fn heads()(
        volume in volume_ids(),
        numbers: (u64, u64, u64),
        position in positions(),
    ) -> Head {
        let (inode, blocks, epoch) = numbers;
        Head { volume, inode: INodeIndex(inode), blocks, epoch: Epoch(epoch), position }
    }
}

prop_compose! {
    fn snapshots()(
        numbers: (u64, u64, u64),
        name in "[a-z]{0,4}",
        head in heads(),
        needs_parent: bool,
        readers in proptest::collection::btree_set(any::<u64>().prop_map(SessionId), 0..3),
    ) -> Snapshot {
        let (id, size, created_ms) = numbers;
        Snapshot { id: SnapshotId(id), name, size, head, created_ms, needs_parent, readers }
    }
}

fn tasks() -> impl Strategy<Value = Task> {
    prop_oneof![
        (".*", any::<u64>()).prop_map(|(name, created_ms)| Task::Snapshot { name, created_ms }),
        any::<(u64, bool)>().prop_map(|(size, discard)| Task::Resize { size, discard }),
        Just(Task::Flatten),
    ]
}

prop_compose! {
    fn asks()(
        id: u64,
        task in tasks(),
        group in proptest::collection::vec(volume_ids(), 0..3),
    ) -> Ask {
        Ask { id: AskId(id), task, group }
    }
}

fn ask_answers() -> impl Strategy<Value = AskAnswer> {
    let error = proptest::option::of(".*");
    (any::<u64>(), error).prop_map(|(id, error)| AskAnswer { id: AskId(id), error })
}

fn parents() -> impl Strategy<Value = Parent> {
    (volume_ids(), any::<(u64, bool)>()).prop_map(|(volume, (snapshot, needed_by_head))| Parent {
        volume,
        snapshot: SnapshotId(snapshot),
        needed_by_head,
    })
}

prop_compose! {
    fn windows()(
        numbers: (u64, u64, u64, u64, u64),
        excluded in proptest::collection::btree_set(peers(), 0..3),
        after in proptest::option::of(positions()),
    ) -> Window {
        let (epoch, inode, ring, first, count) = numbers;
        Window {
            epoch: Epoch(epoch),
            inode: INodeIndex(inode),
            ring: RingVersion(ring),
            excluded,
            first: BlockIndex(first),
            count,
            after,
        }
    }
}

prop_compose! {
    pub(super) fn volumes()(
        id in volume_ids(),
        name in "[a-z]{1,9}",
        numbers: (u64, u64, u64),
        block_spec in specs(),
        head in proptest::option::of(heads()),
        windows in proptest::collection::vec(windows(), 0..3),
        lock in proptest::option::of((any::<(u64, u64)>(), "[a-z]{1,9}")),
        (snapshots_minted, snapshots) in (
            any::<u64>().prop_map(SnapshotId),
            proptest::collection::vec(snapshots(), 0..3),
        ),
        parent in proptest::option::of(parents()),
        retired in proptest::collection::vec(heads(), 0..3),
        asks in proptest::collection::vec(asks(), 0..3),
        (answers, is_clean) in
            (proptest::collection::vec(ask_answers(), 0..3), any::<bool>()),
    ) -> Volume {
        let (size, inode_index, epoch) = numbers;
        let lock = lock.map(|((session, epoch), owner)| {
            Lock { session: SessionId(session), epoch: Epoch(epoch), owner }
        });
        let (inode_index, epoch) = (INodeIndex(inode_index), Epoch(epoch));
        Volume {
            id,
            name,
            size,
            block_spec,
            inode_index,
            head,
            windows,
            epoch,
            lock,
            snapshots_minted,
            snapshots,
            parent,
            retired,
            asks,
            answers,
            is_clean,
        }
    }
}

fn kinds() -> impl Strategy<Value = RingKind> {
    prop_oneof![
        Just(RingKind::Empty),
        Just(RingKind::Single),
        Just(RingKind::Mod),
        Just(RingKind::Ketama)
    ]
}

prop_compose! {
    pub(super) fn rings()(
        version: u64,
        kind in kinds(),
        replication: u32,
        members in proptest::collection::vec((peers(), any::<u64>(), "[a-z]{0,4}"), 0..4),
    ) -> Ring {
        let members = members.into_iter().map(|(peer, weight, zone)| {
            RingMember { peer, weight, zone }
        }).collect();
        Ring { version: RingVersion(version), kind, replication, members }
    }
}

prop_compose! {
    pub(super) fn registered()(
        id in peers(),
        address in "[a-z:0-9]{0,9}",
        zone in "[a-z]{0,4}",
        size_blocks: u64,
        node: Option<u64>,
    ) -> Peer {
        Peer { id, address, zone, size_blocks, node: node.map(NodeId) }
    }
}

pub(super) fn sessions() -> impl Strategy<Value = Session> {
    (any::<u64>(), "[a-z]{0,9}", any::<u32>()).prop_map(|(id, owner, ttl_ms)| Session {
        id: SessionId(id),
        owner,
        ttl_ms,
    })
}

pub(super) fn init() -> (crate::GlobalMetadata, Ring) {
    match fixtures::init() {
        Command::Init { global, ring } => (global, ring),
        other => panic!("{other:?}"),
    }
}

pub(super) fn commands() -> impl Strategy<Value = Command> {
    let id = volume_ids;
    let n = any::<u64>;
    prop_oneof![
        rings().prop_map(|ring| Command::Init { global: init().0, ring }),
        peers().prop_map(|peer| Command::AllocateNode { peer }),
        registered().prop_map(Command::RegisterPeer),
        peers().prop_map(Command::RemovePeer),
        rings().prop_map(Command::SetRing),
        (".*", n(), proptest::option::of(specs()))
            .prop_map(|(name, size, spec)| Command::CreateVolume { name, size, spec }),
        (".*", any::<bool>()).prop_map(|(name, force)| Command::DeleteVolumeNamed { name, force }),
        (volume_ids(), any::<bool>())
            .prop_map(|(volume, force)| Command::DeleteVolume { volume, force }),
        any::<u32>().prop_map(Command::SetVotersMax),
        (".*", any::<u32>()).prop_map(|(owner, ttl_ms)| Command::OpenSession { owner, ttl_ms }),
        n().prop_map(|id| Command::CloseSession(SessionId(id))),
        proptest::collection::vec(n().prop_map(SessionId), 0..3).prop_map(Command::ExpireSessions),
        (id(), n()).prop_map(|(volume, s)| Command::LockVolume { volume, session: SessionId(s) }),
        (id(), n(), n()).prop_map(|(volume, session, epoch)| {
            Command::RelockVolume { volume, session: SessionId(session), epoch: Epoch(epoch) }
        }),
        (id(), n(), any::<bool>()).prop_map(|(volume, e, is_clean)| Command::UnlockVolume {
            volume,
            epoch: Epoch(e),
            is_clean,
        }),
        (id(), n(), n()).prop_map(|(volume, epoch, count)| {
            Command::ReserveINodes { volume, epoch: Epoch(epoch), count }
        }),
        (id(), windows()).prop_map(|(volume, window)| Command::CommitWindow { volume, window }),
        (id(), heads()).prop_map(|(volume, head)| Command::CommitHead { volume, head }),
        anyones_commands(),
        writers_commands(),
    ]
}

/// Commands about snapshots and clones that anyone gives.
fn anyones_commands() -> impl Strategy<Value = Command> {
    let id = volume_ids;
    let n = any::<u64>;
    let maybe = || proptest::option::of(any::<u64>());
    prop_oneof![
        (".*", ".*").prop_map(|(name, to)| Command::RenameVolume { name, to }),
        (id(), n(), ".*").prop_map(|(volume, snapshot, name)| {
            Command::CloneVolume { volume, snapshot: SnapshotId(snapshot), name }
        }),
        (id(), maybe(), n(), maybe()).prop_map(|(volume, epoch, size, ask)| {
            let (epoch, ask) = (epoch.map(Epoch), ask.map(AskId));
            Command::ResizeVolume { volume, epoch, size, ask }
        }),
        (id(), n(), any::<bool>()).prop_map(|(volume, snapshot, force)| {
            Command::DeleteSnapshot { volume, snapshot: SnapshotId(snapshot), force }
        }),
        (id(), n(), n()).prop_map(|(volume, snapshot, session)| {
            let (snapshot, session) = (SnapshotId(snapshot), SessionId(session));
            Command::PinSnapshot { volume, snapshot, session }
        }),
        (proptest::collection::vec(id(), 0..3), tasks())
            .prop_map(|(volumes, task)| Command::AskWriters { volumes, task }),
        n().prop_map(|ask| Command::WithdrawAsk { ask: AskId(ask) }),
    ]
}

/// Commands about snapshots and clones that only a volume's writer gives.
fn writers_commands() -> impl Strategy<Value = Command> {
    let id = volume_ids;
    let n = any::<u64>;
    let epoch = || any::<u64>().prop_map(Epoch);
    let ask = || proptest::option::of(any::<u64>().prop_map(AskId));
    prop_oneof![
        (id(), epoch(), ".*", n(), n(), ask()).prop_map(
            |(volume, epoch, name, size, created_ms, ask)| {
                Command::CommitSnapshot { volume, epoch, name, size, created_ms, ask }
            }
        ),
        (id(), epoch(), n()).prop_map(|(volume, epoch, snapshot)| {
            Command::RestoreSnapshot { volume, epoch, snapshot: SnapshotId(snapshot) }
        }),
        (id(), epoch(), ask()).prop_map(|(volume, epoch, ask)| Command::CommitFlattened {
            volume,
            epoch,
            ask
        }),
        (id(), epoch(), heads()).prop_map(|(volume, epoch, head)| Command::CommitReclaimed {
            volume,
            epoch,
            head
        }),
        (id(), epoch(), n(), ".*").prop_map(|(volume, epoch, ask, error)| {
            Command::RefuseAsk { volume, epoch, ask: AskId(ask), error }
        }),
    ]
}

pub(super) fn outcomes() -> impl Strategy<Value = Outcome> {
    let n = any::<u64>;
    prop_oneof![
        Just(Outcome::Done),
        volumes().prop_map(Outcome::Volume),
        n().prop_map(|id| Outcome::Session(SessionId(id))),
        n().prop_map(|epoch| Outcome::Epoch(Epoch(epoch))),
        n().prop_map(|inode| Outcome::INode(INodeIndex(inode))),
        n().prop_map(|node| Outcome::Node(NodeId(node))),
        n().prop_map(|snapshot| Outcome::Snapshot(SnapshotId(snapshot))),
        n().prop_map(|ask| Outcome::Ask(AskId(ask))),
    ]
}

pub(super) fn refusals() -> impl Strategy<Value = Refusal> {
    let n = any::<u64>;
    prop_oneof![
        Just(Refusal::AlreadyInitialised),
        Just(Refusal::NotInitialised),
        Just(Refusal::NAME_LENGTH),
        ".*".prop_map(|name| Refusal::VolumeExists { name }),
        ".*".prop_map(|name| Refusal::NoSuchVolume { name }),
        volume_ids().prop_map(|id| Refusal::NoSuchVolumeId { id }),
        (".*", ".*").prop_map(|(name, owner)| Refusal::InUse { name, owner }),
        (n(), n()).prop_map(|(found, current)| {
            Refusal::StaleEpoch { found: Epoch(found), current: Epoch(current) }
        }),
        n().prop_map(|epoch| Refusal::NotLocked { epoch: Epoch(epoch) }),
        Just(Refusal::NoSuchSession),
        (n(), n()).prop_map(|(current, found)| {
            Refusal::RingVersion { current: RingVersion(current), found: RingVersion(found) }
        }),
        n().prop_map(|version| Refusal::NoSuchRing(RingVersion(version))),
        Just(Refusal::NoSuchPeer),
        Just(Refusal::PeerInRing),
        Just(Refusal::PeerInWindow),
        Just(Refusal::Superseded),
        Just(Refusal::WindowOrder),
        Just(Refusal::HeadOrder),
        refusals_about_snapshots(),
    ]
}

fn refusals_about_snapshots() -> impl Strategy<Value = Refusal> {
    let n = any::<u64>;
    prop_oneof![
        (".*", ".*").prop_map(|(volume, snapshot)| Refusal::SnapshotExists { volume, snapshot }),
        ".*".prop_map(|volume| Refusal::NoSuchSnapshot { volume }),
        (".*", ".*", n()).prop_map(|(volume, snapshot, clones)| {
            Refusal::HasClones { volume, snapshot, clones }
        }),
        (".*", n()).prop_map(|(volume, snapshots)| Refusal::HasSnapshots { volume, snapshots }),
        (".*", ".*").prop_map(|(volume, snapshot)| Refusal::SnapshotInUse { volume, snapshot }),
        ".*".prop_map(|name| Refusal::NoWriter { name }),
        Just(Refusal::SeveralWriters),
        Just(Refusal::HeadBehind),
        Just(Refusal::Shrinks),
        Just(Refusal::NoSuchAsk),
        Just(Refusal::Level { needed: FeatureLevel(3), present: FeatureLevel(2) }),
    ]
}

pub(super) fn queries() -> impl Strategy<Value = Query> {
    prop_oneof![
        Just(Query::Cluster),
        Just(Query::Volumes),
        ".*".prop_map(Query::VolumeByName),
        volume_ids().prop_map(Query::VolumeById),
        proptest::option::of(any::<u64>().prop_map(RingVersion)).prop_map(Query::Ring),
        Just(Query::Peers),
        Just(Query::Sessions),
        Just(Query::Group),
    ]
}

pub(super) fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Initialised(init().0)),
        registered().prop_map(Event::PeerChanged),
        peers().prop_map(Event::PeerRemoved),
        rings().prop_map(Event::RingChanged),
        volumes().prop_map(Event::VolumeChanged),
        volume_ids().prop_map(Event::VolumeDeleted),
        sessions().prop_map(Event::SessionOpened),
        any::<u64>().prop_map(|id| Event::SessionEnded(SessionId(id))),
        groups().prop_map(Event::GroupChanged),
    ]
}

pub(super) fn groups() -> impl Strategy<Value = Group> {
    let place = any::<(u64, bool)>().prop_map(|(node, votes)| GroupPlace {
        node: NodeId(node),
        address: format!("host:{node}"),
        votes,
    });
    let members = proptest::collection::vec(place, 0..3);
    (any::<u32>(), members, any::<bool>()).prop_map(|(voters_max, members, joint)| Group {
        voters_max,
        members,
        joint,
    })
}
