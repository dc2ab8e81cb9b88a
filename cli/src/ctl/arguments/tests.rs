//! What is understood, and how what is not is answered.

use super::*;
use expect_test::{Expect, expect};

fn parse(line: &str) -> Result<Arguments, String> {
    let words = std::iter::once("torusctl").chain(line.split_whitespace());
    Arguments::try_parse_from(words).map_err(|error| error.to_string())
}

#[track_caller]
fn check(line: &str, expected: Expect) {
    let found = match parse(line) {
        Ok(arguments) => format!("{:?}", arguments.command),
        Err(error) => error.lines().next().unwrap_or_default().to_owned(),
    };
    expected.assert_eq(&found);
}

#[test]
fn the_seeds_commands_are_understood() {
    check(
        "init",
        expect![
            "Init(InitArguments { block_size: Bytes(524288), block_spec: BlockSpec([BlockLayer { kind: Crc, copies: None }, BlockLayer { kind: Base, copies: None }]), replication: None, no_ring: false, voters: None, view: false })"
        ],
    );
    check("peer add --all-peers", expect!["Peer(Add { peers: [], all_peers: true })"]);
    check(
        "volume create-block myVolume 10GiB",
        expect![[
            r#"Volume(CreateBlock(NewVolume { name: "myVolume", size: Bytes(10737418240), layers: Layers { block_spec: None, replication: None } }))"#
        ]],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a line or two for each command")]
fn every_command_is_understood() {
    check(
        "init --block-size 1MiB --block-spec crc,rep=3 --replication 3 --no-ring --view",
        expect![
            "Init(InitArguments { block_size: Bytes(1048576), block_spec: BlockSpec([BlockLayer { kind: Crc, copies: None }, BlockLayer { kind: Replication, copies: Some(3) }, BlockLayer { kind: Base, copies: None }]), replication: Some(3), no_ring: true, voters: None, view: true })"
        ],
    );
    check("member list", expect!["Member(List)"]);
    check(
        "member add http://127.0.0.1:40002",
        expect![[r#"Member(Add { address: Address("127.0.0.1:40002") })"#]],
    );
    check("member remove 3", expect!["Member(Remove { member: Id(NodeId(3)) })"]);
    check("member transfer-leader", expect!["Member(TransferLeader { member: None })"]);
    check(
        "member transfer-leader 127.0.0.1:40001",
        expect![[
            r#"Member(TransferLeader { member: Some(Address(Address("127.0.0.1:40001"))) })"#
        ]],
    );
    check("member status", expect!["Member(Status)"]);
    check("member voters 3", expect!["Member(Voters { number: 3 })"]);
    check(
        "member promote 4 --instead-of 3",
        expect!["Member(Promote { member: Id(NodeId(4)), instead_of: Some(Id(NodeId(3))) })"],
    );
    check("watch", expect!["Watch(WatchArguments { kinds: [], from: None })"]);
    check(
        "watch heads lock --from 7",
        expect!["Watch(WatchArguments { kinds: [Heads, Locks], from: Some(7) })"],
    );
    check("peer list", expect!["Peer(List)"]);
    check(
        "peer add 127.0.0.1:40001 00000000-0000-0000-0000-000000000002",
        expect![[
            r#"Peer(Add { peers: [Address(Address("127.0.0.1:40001")), Id(PeerId(00000000-0000-0000-0000-000000000002))], all_peers: false })"#
        ]],
    );
    check(
        "peer remove 127.0.0.1:40001 --force",
        expect![[r#"Peer(Remove { peers: [Address(Address("127.0.0.1:40001"))], force: true })"#]],
    );
    check(
        "peer forget 127.0.0.1:40001",
        expect![[r#"Peer(Forget { peer: Address(Address("127.0.0.1:40001")) })"#]],
    );
    check(
        "peer blocks 127.0.0.1:40001 --with-places",
        expect![[
            r#"Peer(Blocks { peer: Address(Address("127.0.0.1:40001")), with_places: true })"#
        ]],
    );
    check("ring get", expect!["Ring(Get)"]);
    check("ring set-replication 3", expect!["Ring(SetReplication { replication: 3 })"]);
    check(
        "ring manual-change --type mod --all-peers -r 3",
        expect![
            "Ring(ManualChange(ManualChange { kind: Mod, replication: Some(3), uuids: [], all_peers: true }))"
        ],
    );
    check(
        "ring locate --volume-id 1 --kind inode --inode 3 --index 0",
        expect!["Ring(Locate(Locate { volume_id: VolumeId(1), kind: Inode, inode: 3, index: 0 }))"],
    );
    check(
        "block create disk 1TiB",
        expect![[
            r#"Block(Create(NewVolume { name: "disk", size: Bytes(1099511627776), layers: Layers { block_spec: None, replication: None } }))"#
        ]],
    );
    check("volume list", expect!["Volume(List)"]);
    check("volume info disk", expect![[r#"Volume(Info { name: "disk" })"#]]);
    check("volume delete disk", expect![[r#"Volume(Delete { name: "disk", force: false })"#]]);
    check("status", expect!["Status"]);
    check("version", expect!["Version"]);
    check("completion bash", expect!["Completion { shell: Bash }"]);
}

#[test]
fn commands_on_volumes_are_understood() {
    check(
        "volume create-block disk 1GiB --replication 3 --block-spec crc",
        expect![[
            r#"Volume(CreateBlock(NewVolume { name: "disk", size: Bytes(1073741824), layers: Layers { block_spec: Some(BlockSpec([BlockLayer { kind: Crc, copies: None }, BlockLayer { kind: Base, copies: None }])), replication: Some(3) } }))"#
        ]],
    );
    check(
        "volume delete disk --force",
        expect![[r#"Volume(Delete { name: "disk", force: true })"#]],
    );
    check("volume rename disk old", expect![[r#"Volume(Rename { name: "disk", to: "old" })"#]]);
    check(
        "volume resize disk 20GiB --discard --timeout 5",
        expect![[
            r#"Volume(Resize { name: "disk", size: Bytes(21474836480), discard: true, limit: AskLimit { timeout: 5s } })"#
        ]],
    );
    check(
        "volume clone disk@mon copy",
        expect![[
            r#"Volume(Clone { source: Snapshot(SnapshotName { volume: "disk", snapshot: "mon" }), name: "copy" })"#
        ]],
    );
    check(
        "volume clone disk copy",
        expect![[r#"Volume(Clone { source: Volume("disk"), name: "copy" })"#]],
    );
    check("volume flatten copy", expect![[r#"Volume(Flatten { name: "copy" })"#]]);
    check(
        "volume import disk.img disk --size 1GiB",
        expect![[
            r#"Volume(Import(Import { file: "disk.img", name: "disk", size: Some(Bytes(1073741824)), layers: Layers { block_spec: None, replication: None }, force: false }))"#
        ]],
    );
    check(
        "volume import - disk --replication 2 --force",
        expect![[
            r#"Volume(Import(Import { file: "-", name: "disk", size: None, layers: Layers { block_spec: None, replication: Some(2) }, force: true }))"#
        ]],
    );
    check(
        "volume export disk@mon disk.img --format raw --force",
        expect![[
            r#"Volume(Export(Export { source: Snapshot(SnapshotName { volume: "disk", snapshot: "mon" }), file: "disk.img", format: Some(Raw), since: None, force: true }))"#
        ]],
    );
    check(
        "volume export disk@tue - --since mon",
        expect![[
            r#"Volume(Export(Export { source: Snapshot(SnapshotName { volume: "disk", snapshot: "tue" }), file: "-", format: None, since: Some("mon"), force: false }))"#
        ]],
    );
}

#[test]
fn snapshots_are_understood_in_three_places() {
    for place in ["", "volume ", "block "] {
        let line = |words: &str| parse(&format!("{place}snapshot {words}")).map(|_| ());
        for words in [
            "create disk@mon",
            "create disk@mon log@mon --timeout 5",
            "list disk",
            "delete disk@mon --force",
            "restore disk@mon",
        ] {
            assert_eq!(line(words), Ok(()), "{words}");
        }
    }
    check(
        "snapshot create disk@mon log@mon",
        expect![[
            r#"Snapshot(Create { names: [SnapshotName { volume: "disk", snapshot: "mon" }, SnapshotName { volume: "log", snapshot: "mon" }], limit: AskLimit { timeout: 30s } })"#
        ]],
    );
    check(
        "block snapshot delete disk@mon",
        expect![[
            r#"Block(Snapshot(Delete { name: SnapshotName { volume: "disk", snapshot: "mon" }, force: false }))"#
        ]],
    );
}

#[test]
fn bad_snapshots_are_named() {
    check(
        "snapshot create disk",
        expect![[
            r#"error: invalid value 'disk' for '<VOLUME@SNAPSHOT>...': "disk" names no snapshot; write VOLUME@SNAPSHOT"#
        ]],
    );
    check("snapshot create", expect!["error: the following required arguments were not provided:"]);
    check(
        "snapshot delete disk@",
        expect![[
            r#"error: invalid value 'disk@' for '<VOLUME@SNAPSHOT>': "disk@" names no snapshot; write VOLUME@SNAPSHOT"#
        ]],
    );
    check(
        "snapshot restore @mon",
        expect![[
            r#"error: invalid value '@mon' for '<VOLUME@SNAPSHOT>': "@mon" names no volume; write VOLUME@SNAPSHOT"#
        ]],
    );
    check(
        "snapshot create a@b@c",
        expect![[
            r#"error: invalid value 'a@b@c' for '<VOLUME@SNAPSHOT>...': "a@b@c" has more than one @; write VOLUME@SNAPSHOT"#
        ]],
    );
    check(
        "snapshot create a@b --timeout 0",
        expect![
            "error: invalid value '0' for '--timeout <SECONDS>': write a number of seconds from 1 to 86400"
        ],
    );
    check(
        "volume export disk@ -",
        expect![[
            r#"error: invalid value 'disk@' for '<VOLUME[@SNAPSHOT]>': "disk@" names no snapshot; write VOLUME@SNAPSHOT"#
        ]],
    );
    check(
        "volume export disk@mon - --format gzip",
        expect!["error: invalid value 'gzip' for '--format <FORMAT>'"],
    );
}

#[test]
fn global_options_stand_anywhere() {
    let cluster = |line| parse(line).map(|arguments| (arguments.cluster, arguments.json)).unwrap();
    let addresses: Vec<Address> =
        ["127.0.0.1:1", "node:2"].map(|address| address.parse().unwrap()).to_vec();
    assert_eq!(cluster("-C http://127.0.0.1:1,node:2 --json status"), (addresses.clone(), true));
    assert_eq!(cluster("status --cluster 127.0.0.1:1,node:2"), (addresses, false));
}

#[test]
fn nonsense_is_named() {
    check(
        "init --block-size 10XB",
        expect![[
            r#"error: invalid value '10XB' for '--block-size <SIZE>': "10XB" is no size; write a number with a unit, as 512KiB, 20GiB or 1TB"#
        ]],
    );
    check(
        "init --block-spec parity",
        expect![[
            r#"error: invalid value 'parity' for '--block-spec <SPEC>': there is no block layer "parity"; the layers are base, crc and rep=N"#
        ]],
    );
    check(
        "init --replication many",
        expect![
            "error: invalid value 'many' for '--replication <COPIES>': invalid digit found in string"
        ],
    );
    check(
        "volume create-block new 10XB",
        expect![[
            r#"error: invalid value '10XB' for '<SIZE>': "10XB" is no size; write a number with a unit, as 512KiB, 20GiB or 1TB"#
        ]],
    );
    check(
        "ring manual-change --type round --all-peers",
        expect!["error: invalid value 'round' for '--type <KIND>'"],
    );
    check(
        "ring locate --volume-id 0 --inode 1 --index 1",
        expect![
            "error: invalid value '0' for '--volume-id <ID>': write a number from 1 to 2^40 - 1"
        ],
    );
    check("peer add", expect!["error: the following required arguments were not provided:"]);
    check(
        "peer add --all-peers 127.0.0.1:40001",
        expect!["error: the argument '--all-peers' cannot be used with '[HOST:PORT|UUID]...'"],
    );
    check(
        "status -C nowhere:0",
        expect![[
            r#"error: invalid value 'nowhere:0' for '--cluster <HOST:PORT>': "nowhere:0" is no address; write HOST:PORT, as 127.0.0.1:40000"#
        ]],
    );
}

#[test]
fn etcd_is_answered_with_a_sentence() {
    for line in ["--etcd 127.0.0.1:2379", "--etcd 127.0.0.1:2379 init", "peer list --etcd x:1"] {
        let error = parse(line).unwrap_err();
        assert!(error.contains("no etcd is needed"), "{line}: {error}");
    }
}

#[test]
fn commands_on_all_metadata_are_understood() {
    check("metadata backup -", expect![[r#"Metadata(Backup { file: "-", force: false })"#]]);
    check(
        "metadata backup --force a/b",
        expect![[r#"Metadata(Backup { file: "a/b", force: true })"#]],
    );
    check("metadata restore a", expect![[r#"Metadata(Restore { file: "a" })"#]]);
    check("metadata dump", expect!["Metadata(Dump { from: None })"]);
    check("metadata dump --from -", expect![[r#"Metadata(Dump { from: Some("-") })"#]]);
    check("metadata forget-lost", expect!["Metadata(ForgetLost)"]);
    check(
        "recover --data-dir d --yes",
        expect![[r#"Recover(RecoverArguments { data_dir: "d", peer_address: None, yes: true })"#]],
    );
    check("recover --yes", expect!["error: the following required arguments were not provided:"]);
}
