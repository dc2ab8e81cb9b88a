//! Names, sizes, specs, and what is shown of volumes.

use super::show::{facts, info, list};
use super::*;
use crate::ctl::snapshot::tests::{clone_of, with_snapshots};
use expect_test::{Expect, expect};
use torus_blockstore::{Epoch, INodeIndex, VolumeId};
use torus_metadata::{Lock, SessionId, SnapshotId, Volume};

/// A volume of 10 GiB.
pub(crate) fn volume(id: u64, name: &str, owner: Option<&str>) -> Volume {
    let lock =
        |owner: &str| Lock { session: SessionId(1), epoch: Epoch(2), owner: owner.to_owned() };
    Volume {
        id: VolumeId::new(id).unwrap(),
        name: name.to_owned(),
        size: 10 << 30,
        block_spec: BlockSpec::default(),
        inode_index: INodeIndex(4),
        head: None,
        windows: vec![],
        epoch: Epoch(2),
        lock: owner.map(lock),
        snapshots_minted: SnapshotId(0),
        snapshots: vec![],
        parent: None,
        retired: vec![],
        asks: vec![],
        answers: vec![],
        is_clean: true,
    }
}

#[track_caller]
fn check_of(name: &str, size: &str, expected: Expect) {
    let found = match check(name, size.parse().unwrap()) {
        Ok(bytes) => bytes.to_string(),
        Err(Failure::Usage(error)) => format!("usage: {error}"),
        Err(Failure::Failed(error)) => format!("failed: {error}"),
    };
    expected.assert_eq(&found);
}

#[test]
fn sizes_are_rounded_up() {
    check_of("disk", "10GiB", expect!["10737418240"]);
    check_of("disk", "1", expect!["4096"]);
}

#[test]
fn bad_names_and_sizes_are_refused_before_anything_is_sent() {
    check_of(
        "a/b",
        "1GiB",
        expect![[
            r#"usage: volume "a/b": the volume name is not valid: only A-Z, a-z, 0-9, '.', '_' and '-' may stand in it"#
        ]],
    );
    check_of(
        "",
        "1GiB",
        expect![[
            r#"usage: volume "" (empty): the volume name is not valid: it must have 1 to 255 characters"#
        ]],
    );
    check_of(
        &"x".repeat(300),
        "1GiB",
        expect![[
            r#"usage: volume "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"… (300 characters): the volume name is not valid: it must have 1 to 255 characters"#
        ]],
    );
    check_of(
        "disk",
        "0",
        expect!["usage: size 0 B: the size is not valid: it must be more than 0"],
    );
    check_of(
        "disk",
        "1EiB",
        expect!["failed: a volume of 1.0 EiB cannot be made: a volume has at most 256 TiB"],
    );
    check_of(
        "disk",
        "18446744073709551615",
        expect!["failed: a volume of 16.0 EiB cannot be made: a volume has at most 256 TiB"],
    );
}

#[test]
fn volumes_are_listed_by_name() {
    let volumes = [volume(1, "myVolume", None), volume(2, "disk", Some("host-1 (torusblk 77)"))];
    expect![[r#"
        VOLUME NAME      SIZE  TYPE   SNAPSHOTS  STATUS
        disk         10.0 GiB  block          0  in use by host-1 (torusblk 77)
        myVolume     10.0 GiB  block          0  free
    "#]]
    .assert_eq(&list(&volumes));
    expect![[r#"{"block_spec":"crc,base","clones":[],"epoch":2,"head":null,"id":2,"in_use_by":"host-1 (torusblk 77)","inode_index":4,"left_by_import":false,"name":"disk","parent":null,"retired":0,"size":10737418240,"snapshots":[],"status":"in-use","type":"block","windows":0}"#]].assert_eq(&facts(&volumes[1], &volumes).to_string());
    expect![[r#"
        Name: myVolume
        ID: 1
        Size: 10.0 GiB (10737418240 bytes)
        Type: block
        Block spec: crc,base
        Status: free
        Parent: none
        Snapshots: none
        Clones: none
        Opened: 2 times
        Checkpoint: none yet
        Open windows: 0
        Retired: none
    "#]]
    .assert_eq(&info(&volumes[0], &volumes));
}

#[test]
fn clones_are_shown_with_their_parents() {
    let mut disk = with_snapshots(1, "disk");
    disk.retired.push(disk.snapshots[0].head.clone());
    let left = volume(4, "new.importing-1a2b3c4d", None);
    let volumes = [disk.clone(), clone_of(&disk, 2, "copy"), left];
    expect![[r#"
        VOLUME NAME                 SIZE  TYPE   SNAPSHOTS  STATUS             PARENT
        copy                    10.0 GiB  block          0  free               disk@mon
        disk                    10.0 GiB  block          2  free
        new.importing-1a2b3c4d  10.0 GiB  block          0  left by an import
    "#]]
    .assert_eq(&list(&volumes));
    expect![[r#"
        Name: disk
        ID: 1
        Size: 10.0 GiB (10737418240 bytes)
        Type: block
        Block spec: crc,base
        Status: free
        Parent: none
        Snapshots: mon, tue
        Clones: copy
        Opened: 2 times
        Checkpoint: INode 2, 1 blocks
        Open windows: 0
        Retired: 1 checkpoint, whose space the writer frees
    "#]]
    .assert_eq(&info(&disk, &volumes));
    expect![[r#"
        Name: copy
        ID: 2
        Size: 10.0 GiB (10737418240 bytes)
        Type: block
        Block spec: crc,base
        Status: free
        Parent: disk@mon
        Snapshots: none
        Clones: none
        Opened: 2 times
        Checkpoint: none yet
        Open windows: 0
        Retired: none
    "#]]
    .assert_eq(&info(&volumes[1], &volumes));
    expect![[r#"{"block_spec":"crc,base","clones":["copy"],"epoch":2,"head":2,"id":1,"in_use_by":null,"inode_index":4,"left_by_import":false,"name":"disk","parent":null,"retired":1,"size":10737418240,"snapshots":[{"clones":["copy"],"created":"2023-11-14T22:13:20Z","created_ms":1700000000001,"id":1,"name":"mon","readers":0,"size":10737418240},{"clones":[],"created":"2023-11-14T22:13:20Z","created_ms":1700000000002,"id":2,"name":"tue","readers":0,"size":10737418240}],"status":"free","type":"block","windows":0}"#]].assert_eq(&facts(&disk, &volumes).to_string());
}

#[test]
fn copies_are_a_layer() {
    let with = |spec: &str, copies| {
        let spec = with_copies(&spec.parse().unwrap(), copies);
        spec.map_or_else(|failure| failure.line(), |spec| spec.to_string())
    };
    expect!["crc,rep=3,base"].assert_eq(&with("crc", 3));
    expect!["crc,rep=3,base"].assert_eq(&with("crc,rep=3", 3));
    expect!["the block spec asks for 3 copies and --replication for 2; leave one out"]
        .assert_eq(&with("crc,rep=3", 2));
    expect![[r#"rep="99" is no number of copies from 1 to 16"#]].assert_eq(&with("crc", 99));
    let without = |spec: &str| without_copies(&spec.parse().unwrap()).to_string();
    assert_eq!(["crc,rep=3", "rep=2", "crc"].map(without), ["crc,base", "base", "crc,base"]);
}
