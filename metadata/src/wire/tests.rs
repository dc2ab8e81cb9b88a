//! Round trips and golden bytes.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use prost::Message;
use torus_blockstore::{BlockIndex, Epoch, INodeIndex, VolumeId};

use self::values::{
    commands, events, groups, init, outcomes, queries, refusals, registered, rings, sessions,
    volumes,
};
use super::snapshot::SnapshotError;
use super::{
    Image, Parts, decode_proposal, decode_response, encode_proposal, encode_response, proto,
    read_snapshot, watch_replies, write_snapshot,
};
use crate::fixtures;
use crate::machine::{Machine, Proposal, RequestId, Tenure};
use crate::{
    Answer, Applied, AskId, Command, Group, GroupPlace, Head, LogPosition, NodeId, Refusal,
    Response, Revision, RingVersion, SessionId, SnapshotId, Task, Volume, WatchItem, Window,
};

mod backup;
mod values;

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
        Command::DeleteVolumeNamed { name: name(), force: false },
        Command::DeleteVolumeNamed { name: name(), force: true },
        Command::DeleteVolume { volume, force: false },
        Command::DeleteVolume { volume, force: true },
        Command::SetVotersMax(3),
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
        Command::CommitSnapshot {
            volume,
            epoch,
            name: name(),
            size: 9,
            created_ms: 5,
            ask: Some(ask),
        },
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
        ca02020809
        ca020408091001
        d00203
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
        ca010d080910031a016e200528043009
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
    for number in (0..=33).chain([60]) {
        let refusal = Refusal::from_reason(number);
        let there: Response = Err(refusal.clone());
        assert_eq!(decode_response(&encode_response(there)), Ok(Err(refusal.clone())));
        let Refusal::Invalid { what, why } = refusal else { panic!("{refusal:?}") };
        assert_eq!(crate::reasons::number(what, why), number);
    }
    assert_eq!(Refusal::from_reason(u32::MAX), Refusal::UNKNOWN_REASON);
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
        group in groups(),
    ) {
        let revision = Revision(7);
        let (volumes_minted, volumes) = (3, vec![volume.clone()]);
        for answer in [
            Answer::Cluster {
                global: Some(init().0),
                volumes_minted,
                generation: 2,
                level: crate::FeatureLevel(2),
                revision,
            },
            Answer::Volumes { volumes, volumes_minted, lost: vec![4..=9, 12..=12], revision },
            Answer::Volume { volume: Some(volume), revision },
            Answer::Volume { volume: None, revision },
            Answer::Ring { ring: Some(ring), revision },
            Answer::Peers { peers: vec![peer], revision },
            Answer::Sessions { sessions: vec![session], revision },
            Answer::Group { group, revision },
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
        Command::CommitSnapshot {
            volume,
            epoch,
            name: "s".to_owned(),
            size: 1 << 30,
            created_ms,
            ask: None,
        },
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
    let place = GroupPlace { node: NodeId(1), address: "a:1".to_owned(), votes: true };
    machine.regroup(vec![place], true);
    machine
}

#[test]
fn golden_group() {
    let place = GroupPlace { node: NodeId(1), address: "a:1".to_owned(), votes: true };
    let group = Group { voters_max: 3, members: vec![place], joint: true };
    let record = proto::SnapshotRecord {
        kind: Some(proto::snapshot_record::Kind::Group(group.clone().into())),
    };
    expect!["c2020f0803120908011203613a3118011801"].assert_eq(&hex(&record.encode_to_vec()));
    assert_eq!(Group::from(proto::Group::from(group.clone())), group);
}

/// What a watch sends of a list of `count` sessions, put together again.
#[track_caller]
fn check_parts(count: u64, expected: usize) {
    let session = |id| crate::Session { id: SessionId(id), owner: String::new(), ttl_ms: 1000 };
    let sessions = (0..count).map(session).collect();
    let answer = Answer::Sessions { sessions, revision: Revision(7) };
    let replies = watch_replies(WatchItem::Listed(answer.clone()));
    assert_eq!(replies.len(), expected);
    let mut parts = Parts::default();
    let mut whole = None;
    for reply in replies {
        assert_eq!(whole, None, "nothing comes behind the last part");
        let proto::watch_reply::Kind::Listed(listed) = reply else { panic!("{reply:?}") };
        whole = parts.take(listed).unwrap();
    }
    assert_eq!(whole, Some(answer));
}

#[test]
fn a_long_list_takes_several_messages() {
    check_parts(0, 1);
    check_parts(1000, 1);
    check_parts(1001, 2);
    check_parts(3500, 4);
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
    expect!["544f5255534d4453010000002c0000000a2a080112200a10000000000000000000000000000000c1108080201a086372632c62617365200150015801080000001206080110041802000000008815a87c"].assert_eq(&hex(&snapshot(&machine)));
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
