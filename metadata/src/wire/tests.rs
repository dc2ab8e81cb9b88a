//! Round trips and golden bytes.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use prost::Message;
use torus_blockstore::{BlockIndex, BlockSpec, Epoch, INodeIndex, PeerId, VolumeId};

use super::snapshot::SnapshotError;
use super::{
    Image, decode_proposal, decode_response, encode_proposal, encode_response, proto,
    read_snapshot, write_snapshot,
};
use crate::fixtures;
use crate::machine::{Machine, Proposal, RequestId, Tenure};
use crate::{
    Answer, Applied, Ask, AskAnswer, AskId, Command, Event, Head, Lock, LogPosition, NodeId,
    Outcome, Parent, Peer, Query, Refusal, Response, Revision, Ring, RingKind, RingMember,
    RingVersion, Session, SessionId, Snapshot, SnapshotId, Task, Volume, Window,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[track_caller]
fn check_proposal(proposal: Proposal, expected: Expect) {
    let bytes = encode_proposal(proposal.clone());
    expected.assert_eq(&hex(&bytes));
    assert_eq!(decode_proposal(&bytes), Ok(proposal));
}

#[test]
fn golden_log_entries() {
    let request = RequestId { client: 0x0102, sequence: 3 };
    let volume = VolumeId::new(9).unwrap();
    let command = Command::LockVolume { volume, session: SessionId(300) };
    check_proposal(
        Proposal::Command { request, command },
        expect!["0a1f0a140a1000000000000000000000000000000102100312075a05080910ac02"],
    );
    check_proposal(Proposal::BeginTenure(Tenure(6)), expect!["1006"]);
    let sessions = vec![SessionId(1), SessionId(2)];
    check_proposal(Proposal::Expire { tenure: Tenure(5), sessions }, expect!["1a06080512020102"]);
}

#[test]
fn golden_log_entries_about_snapshots() {
    let request = RequestId { client: 1, sequence: 1 };
    let volume = VolumeId::new(9).unwrap();
    let (snapshot, epoch, ask) = (SnapshotId(2), Epoch(3), AskId(4));
    let name = || "n".to_owned();
    let position = LogPosition { inode: INodeIndex(5), block: BlockIndex(6), offset: 7 };
    let head = Head { volume, inode: INodeIndex(8), blocks: 1, epoch, position };
    let said = [
        Command::DeleteVolume { name: name(), force: false },
        Command::DeleteVolume { name: name(), force: true },
        Command::RenameVolume { name: name(), to: "t".to_owned() },
        Command::CloneVolume { volume, snapshot, name: name() },
        Command::ResizeVolume { volume, epoch: None, size: 5, ask: None },
        Command::ResizeVolume { volume, epoch: Some(epoch), size: 5, ask: Some(ask) },
        Command::DeleteSnapshot { volume, snapshot, force: true },
        Command::PinSnapshot { volume, snapshot, session: SessionId(5) },
        Command::AskWriters {
            volumes: vec![volume, VolumeId::new(10).unwrap()],
            task: Task::Snapshot { name: name(), created_ms: 5 },
        },
        Command::AskWriters { volumes: vec![volume], task: Task::Flatten },
        Command::AskWriters {
            volumes: vec![volume],
            task: Task::Resize { size: 5, discard: true },
        },
        Command::WithdrawAsk { ask },
        Command::CommitHead { volume, head: head.clone() },
        Command::CommitSnapshot { volume, epoch, name: name(), created_ms: 5, ask: Some(ask) },
        Command::RestoreSnapshot { volume, epoch, snapshot },
        Command::CommitFlattened { volume, epoch, ask: None },
        Command::CommitReclaimed { volume, epoch, head },
        Command::RefuseAsk { volume, epoch, ask, error: "e".to_owned() },
    ]
    .map(|command| {
        let proposal = Proposal::Command { request, command: command.clone() };
        assert_eq!(decode_proposal(&encode_proposal(proposal.clone())), Ok(proposal));
        hex(&proto::Command::from(command).encode_to_vec())
    });
    expect![[r#"
        3a016e
        8a01016e
        9201060a016e120174
        9a0107080910021a016e
        a2010408091805
        a201080809100318052004
        aa0106080910021801
        b20106080910021805
        ba010d0a02090a12070a050a016e1005
        ba01070a010912021a00
        ba010b0a01091206120408051001
        c00104
        8201140809121008081001180322060805100618072809
        ca010b080910031a016e20052804
        d20106080910031802
        da010408091003
        e20116080910031a1008081001180322060805100618072809
        ea0109080910031804220165"#]]
    .assert_eq(&said.join("\n"));
}

#[test]
fn a_volume_from_before_there_were_snapshots_is_read() {
    let volume = VolumeId::new(9).unwrap();
    let position = Some(proto::Position { inode: 1, block: 2, offset: 3 });
    let head = proto::Head { inode: 8, blocks: 1, epoch: 3, position, volume: 0 };
    let old = proto::Volume {
        id: 9,
        block_spec: "crc".to_owned(),
        head: Some(head),
        ..proto::Volume::default()
    };
    let read = Volume::try_from(old).unwrap();
    assert_eq!(read.head.map(|head| head.volume), Some(volume));
    assert_eq!((read.snapshots_minted, read.snapshots, read.parent), (SnapshotId(0), vec![], None));
    assert_eq!((read.retired, read.asks, read.answers), (vec![], vec![], vec![]));
    let kind = proto::command::CommitHead { volume: 9, head: Some(head) };
    let kind = Some(proto::command::Kind::CommitHead(kind));
    let command = Command::try_from(proto::Command { kind }).unwrap();
    assert!(matches!(command, Command::CommitHead { head, .. } if head.volume == volume));
}

#[test]
fn a_log_entry_of_a_later_version_is_refused() {
    // Field 99 of the proposal, and of the command in it.
    assert!(decode_proposal(&[0x9a, 0x06, 0x00]).is_err());
    assert!(decode_proposal(&[]).is_err());
    assert!(decode_proposal(b"\x0a\x05\x12\x03\x9a\x06\x00").is_err());
}

#[test]
fn every_reason_keeps_its_number() {
    for number in 0..=33 {
        let refusal = Refusal::from_reason(number);
        let there: Response = Err(refusal.clone());
        assert_eq!(decode_response(&encode_response(there)), Ok(Err(refusal.clone())));
        let Refusal::Invalid { what, why } = refusal else { panic!("{refusal:?}") };
        assert_eq!(crate::reasons::number(what, why), number);
    }
    assert_eq!(Refusal::from_reason(u32::MAX), Refusal::UNKNOWN_REASON);
}

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
    fn volumes()(
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
        answers in proptest::collection::vec(ask_answers(), 0..3),
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
    fn rings()(
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
    fn registered()(
        id in peers(),
        address in "[a-z:0-9]{0,9}",
        zone in "[a-z]{0,4}",
        size_blocks: u64,
        node: Option<u64>,
    ) -> Peer {
        Peer { id, address, zone, size_blocks, node: node.map(NodeId) }
    }
}

fn sessions() -> impl Strategy<Value = Session> {
    (any::<u64>(), "[a-z]{0,9}", any::<u32>()).prop_map(|(id, owner, ttl_ms)| Session {
        id: SessionId(id),
        owner,
        ttl_ms,
    })
}

fn init() -> (crate::GlobalMetadata, Ring) {
    match fixtures::init() {
        Command::Init { global, ring } => (global, ring),
        other => panic!("{other:?}"),
    }
}

fn commands() -> impl Strategy<Value = Command> {
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
        (".*", any::<bool>()).prop_map(|(name, force)| Command::DeleteVolume { name, force }),
        (".*", any::<u32>()).prop_map(|(owner, ttl_ms)| Command::OpenSession { owner, ttl_ms }),
        n().prop_map(|id| Command::CloseSession(SessionId(id))),
        proptest::collection::vec(n().prop_map(SessionId), 0..3).prop_map(Command::ExpireSessions),
        (id(), n()).prop_map(|(volume, s)| Command::LockVolume { volume, session: SessionId(s) }),
        (id(), n(), n()).prop_map(|(volume, session, epoch)| {
            Command::RelockVolume { volume, session: SessionId(session), epoch: Epoch(epoch) }
        }),
        (id(), n()).prop_map(|(volume, e)| Command::UnlockVolume { volume, epoch: Epoch(e) }),
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
        (id(), epoch(), ".*", n(), ask()).prop_map(|(volume, epoch, name, created_ms, ask)| {
            Command::CommitSnapshot { volume, epoch, name, created_ms, ask }
        }),
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

fn outcomes() -> impl Strategy<Value = Outcome> {
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

fn refusals() -> impl Strategy<Value = Refusal> {
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
    ]
}

fn queries() -> impl Strategy<Value = Query> {
    prop_oneof![
        Just(Query::Cluster),
        Just(Query::Volumes),
        ".*".prop_map(Query::VolumeByName),
        volume_ids().prop_map(Query::VolumeById),
        proptest::option::of(any::<u64>().prop_map(RingVersion)).prop_map(Query::Ring),
        Just(Query::Peers),
        Just(Query::Sessions),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Initialised(init().0)),
        registered().prop_map(Event::PeerChanged),
        peers().prop_map(Event::PeerRemoved),
        rings().prop_map(Event::RingChanged),
        volumes().prop_map(Event::VolumeChanged),
        volume_ids().prop_map(Event::VolumeDeleted),
        sessions().prop_map(Event::SessionOpened),
        any::<u64>().prop_map(|id| Event::SessionEnded(SessionId(id))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn commands_round_trip(client: u128, sequence: u64, command in commands()) {
        let request = RequestId { client, sequence };
        let proposal = Proposal::Command { request, command };
        let bytes = encode_proposal(proposal.clone());
        prop_assert_eq!(decode_proposal(&bytes), Ok(proposal));
    }

    #[test]
    fn responses_round_trip(
        revision: u64,
        outcome in outcomes(),
        refusal in refusals(),
    ) {
        let applied: Response = Ok(Applied { revision: Revision(revision), outcome });
        prop_assert_eq!(decode_response(&encode_response(applied.clone())), Ok(applied));
        let refused: Response = Err(refusal);
        prop_assert_eq!(decode_response(&encode_response(refused.clone())), Ok(refused));
    }

    #[test]
    fn queries_round_trip(query in queries()) {
        prop_assert_eq!(proto::Query::from(query.clone()).try_into(), Ok(query));
    }

    #[test]
    fn events_round_trip(event in events()) {
        let bytes = proto::Event::from(event.clone()).encode_to_vec();
        prop_assert_eq!(proto::Event::decode(&*bytes).unwrap().try_into(), Ok(event));
    }

    #[test]
    fn answers_round_trip(
        volume in volumes(), ring in rings(), peer in registered(), session in sessions(),
    ) {
        let revision = Revision(7);
        let (volumes_minted, volumes) = (3, vec![volume.clone()]);
        for answer in [
            Answer::Cluster { global: Some(init().0), volumes_minted, revision },
            Answer::Volumes { volumes, volumes_minted, revision },
            Answer::Volume { volume: Some(volume), revision },
            Answer::Volume { volume: None, revision },
            Answer::Ring { ring: Some(ring), revision },
            Answer::Peers { peers: vec![peer], revision },
            Answer::Sessions { sessions: vec![session], revision },
        ] {
            prop_assert_eq!(proto::Answer::from(answer.clone()).try_into(), Ok(answer));
        }
    }
}

/// A machine that has something of everything.
fn example() -> Machine {
    let mut machine = Machine::default();
    let volume = VolumeId::new(1).unwrap();
    let window = Window {
        epoch: Epoch(1),
        inode: INodeIndex(1),
        ring: RingVersion(1),
        excluded: BTreeSet::from([fixtures::peer_id(1)]),
        first: BlockIndex(0),
        count: 64,
        after: None,
    };
    let position = LogPosition { inode: INodeIndex(1), block: BlockIndex(3), offset: 512 };
    let head = Head { volume, inode: INodeIndex(2), blocks: 1, epoch: Epoch(1), position };
    let (epoch, created_ms) = (Epoch(1), 1 << 40);
    let next = Head { inode: INodeIndex(3), ..head.clone() };
    let snapshot = SnapshotId(1);
    let task = Task::Snapshot { name: "asked".to_owned(), created_ms };
    let commands = [
        fixtures::init(),
        Command::AllocateNode { peer: fixtures::peer_id(1) },
        Command::RegisterPeer(fixtures::peer(1)),
        Command::CreateVolume { name: "v".to_owned(), size: 1 << 30, spec: None },
        Command::OpenSession { owner: "host".to_owned(), ttl_ms: 1000 },
        Command::LockVolume { volume, session: SessionId(5) },
        Command::ReserveINodes { volume, epoch: Epoch(1), count: 3 },
        Command::CommitWindow { volume, window },
        Command::SetRing(fixtures::ring(2, &[1])),
        Command::CommitHead { volume, head },
        Command::CommitSnapshot { volume, epoch, name: "s".to_owned(), created_ms, ask: None },
        Command::PinSnapshot { volume, snapshot, session: SessionId(5) },
        Command::CloneVolume { volume, snapshot, name: "c".to_owned() },
        Command::CommitHead { volume, head: next },
        Command::RestoreSnapshot { volume, epoch, snapshot },
        Command::AskWriters { volumes: vec![volume], task: Task::Flatten },
        Command::RefuseAsk { volume, epoch, ask: AskId(16), error: "no".to_owned() },
        Command::AskWriters { volumes: vec![volume], task },
    ];
    for (index, command) in (1..).zip(commands) {
        let request = RequestId { client: u128::from(index % 3), sequence: index };
        machine.apply(index, Proposal::Command { request, command }).unwrap();
    }
    machine.apply(30, Proposal::BeginTenure(Tenure(6))).unwrap();
    machine
}

fn snapshot(machine: &Machine) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_snapshot(Image::of(machine), &mut bytes).unwrap();
    bytes
}

#[test]
fn a_snapshot_restores_everything_but_the_history() {
    let machine = example();
    let bytes = snapshot(&machine);
    let restored = read_snapshot(&mut &*bytes).unwrap();
    assert_eq!(restored.state, machine.state);
    assert_eq!(restored.answered, machine.answered);
    assert_eq!(restored.tenure, machine.tenure);
    assert_eq!(restored.compacted(), machine.state.revision());
    assert_eq!(snapshot(&restored), bytes);
}

#[test]
fn the_same_log_gives_the_same_snapshot() {
    assert_eq!(snapshot(&example()), snapshot(&example()));
}

#[test]
fn golden_snapshot() {
    let mut machine = Machine::default();
    machine.change(1, fixtures::init()).unwrap();
    expect!["544f5255534d445301000000280000000a26080112200a10000000000000000000000000000000c1108080201a086372632c62617365200108000000120608011004180200000000090dfc3b"].assert_eq(&hex(&snapshot(&machine)));
}

#[test]
fn every_damaged_byte_of_a_snapshot_is_noticed() {
    let bytes = snapshot(&example());
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 1;
        assert!(read_snapshot(&mut &*damaged).is_err(), "byte {index}");
        assert!(read_snapshot(&mut &bytes[..index]).is_err(), "cut at {index}");
    }
    let mut later = bytes;
    later[8] = 2;
    assert!(matches!(read_snapshot(&mut &*later), Err(SnapshotError::Version { found: 2 })));
}
