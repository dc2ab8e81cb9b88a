//! Snapshots: taken, deleted, restored, read; and what becomes of their checkpoints.

use expect_test::expect;

use super::{check_on, parse, prepared};
use crate::{Command, Refusal, SnapshotId};

/// Volume 1, locked by session 3 with epoch 1; INodes 1 to 9 are reserved, the head is 2.
pub(super) const WRITTEN: &str = "create v 4096
    open alice 1000
    lock 1 3
    reserve 1 1 9
    head 1 1 2 1 8 0\n";

#[test]
fn a_snapshot_pins_the_head_and_the_size() {
    check_on(
        prepared(WRITTEN),
        "snapshot 1 1 a
        snapshot 1 1 a
        snapshot 1 1 -b
        snapshot 1 1 b/c
        snapshot 1 2 b
        snapshot 2 1 b
        grow 1 8192
        head 1 1 4 3 0 0
        snapshot 1 1 b
        all 1
        drop 1 2
        snapshot 1 1 b
        drop 1 2
        all 1
        unlock 1 1
        snapshot 1 1 c",
        expect![[r#"
            snapshot 1 1 a: r7 snapshot 1 +volume 1
            snapshot 1 1 a: volume "v" has a snapshot named "a" already
            snapshot 1 1 -b: the snapshot name is not valid: it must not start with '-' or '.'
            snapshot 1 1 b/c: the snapshot name is not valid: only A-Z, a-z, 0-9, '.', '_' and '-' may stand in it
            snapshot 1 2 b: epoch 2 of the volume has ended; 1 is current
            snapshot 2 1 b: there is no volume with ID 2
            grow 1 8192: r8 done +volume 1
            head 1 1 4 3 0 0: r9 done +volume 1
            snapshot 1 1 b: r10 snapshot 2 +volume 1
            all 1: v size 8192
                head 1:4 epoch 1 log 3/0/0
                snapshot 1=a size 4096 head 1:2 epoch 1 log 1/8/0 readers []
                snapshot 2=b size 4096 head 1:4 epoch 1 log 3/0/0 readers []
            drop 1 2: r11 done +volume 1
            snapshot 1 1 b: r12 snapshot 3 +volume 1
            drop 1 2: volume "v" has no such snapshot
            all 1: v size 8192
                head 1:4 epoch 1 log 3/0/0
                snapshot 1=a size 4096 head 1:2 epoch 1 log 1/8/0 readers []
                snapshot 3=b size 4096 head 1:4 epoch 1 log 3/0/0 readers []
            unlock 1 1: r13 done +volume 1
            snapshot 1 1 c: epoch 1 of the volume is not locked
        "#]],
    );
}

#[test]
fn a_volume_without_a_checkpoint_has_nothing_to_pin() {
    let state = prepared("create v 4096\nopen alice 1000\nlock 1 3");
    check_on(
        state,
        "snapshot 1 1 a\nrestore 1 1 1",
        expect![[r#"
        snapshot 1 1 a: the volume has unwritten data behind its head; only its writer can do this
        restore 1 1 1: volume "v" has no such snapshot
    "#]],
    );
}

#[test]
fn snapshots_of_one_volume_are_limited() {
    let mut state = prepared(WRITTEN);
    for number in 1..=1024 {
        state.apply(9, parse(&format!("snapshot 1 1 s{number}"))).0.unwrap();
    }
    assert_eq!(state.apply(9, parse("snapshot 1 1 more")).0, Err(Refusal::SNAPSHOT_LIMIT));
    assert_eq!(state.apply(9, parse("ask 1 snapshot more")).0, Err(Refusal::SNAPSHOT_LIMIT));
    state.apply(9, parse("drop 1 7")).0.unwrap();
    state.apply(9, parse("snapshot 1 1 more")).0.unwrap();
}

#[test]
fn a_checkpoint_is_retired_when_nothing_names_it_any_more() {
    check_on(
        prepared(WRITTEN),
        "snapshot 1 1 a
        drop 1 1
        all 1
        snapshot 1 1 b
        snapshot 1 1 c
        head 1 1 4 3 0 0
        drop 1 2
        all 1
        drop 1 3
        all 1
        reclaimed 1 2 2 1 1 8 0
        reclaimed 1 1 4 1 1 8 0
        reclaimed 1 1 2 1 1 8 1
        reclaimed 1 1 2 1 1 8 0
        reclaimed 1 1 2 1 1 8 0
        all 1
        drop 1 3",
        expect![[r#"
            snapshot 1 1 a: r7 snapshot 1 +volume 1
            drop 1 1: r8 done +volume 1
            all 1: v size 4096
                head 1:2 epoch 1 log 1/8/0
            snapshot 1 1 b: r9 snapshot 2 +volume 1
            snapshot 1 1 c: r10 snapshot 3 +volume 1
            head 1 1 4 3 0 0: r11 done +volume 1
            drop 1 2: r12 done +volume 1
            all 1: v size 4096
                head 1:4 epoch 1 log 3/0/0
                snapshot 3=c size 4096 head 1:2 epoch 1 log 1/8/0 readers []
            drop 1 3: r13 done +volume 1
            all 1: v size 4096
                head 1:4 epoch 1 log 3/0/0
                retired 1:2 epoch 1 log 1/8/0
            reclaimed 1 2 2 1 1 8 0: epoch 2 of the volume has ended; 1 is current
            reclaimed 1 1 4 1 1 8 0: r13 done
            reclaimed 1 1 2 1 1 8 1: r13 done
            reclaimed 1 1 2 1 1 8 0: r14 done +volume 1
            reclaimed 1 1 2 1 1 8 0: r14 done
            all 1: v size 4096
                head 1:4 epoch 1 log 3/0/0
            drop 1 3: volume "v" has no such snapshot
        "#]],
    );
}

#[test]
fn restoring_keeps_the_logs_place_and_retires_the_former_head() {
    check_on(
        prepared(WRITTEN),
        "snapshot 1 1 a
        grow 1 8192
        head 1 1 4 3 5 512
        restore 1 1 2
        restore 1 2 1
        restore 1 1 1
        all 1
        restore 1 1 1
        all 1
        snapshot 1 1 b
        drop 1 1
        all 1
        unlock 1 1
        restore 1 1 2",
        expect![[r#"
            snapshot 1 1 a: r7 snapshot 1 +volume 1
            grow 1 8192: r8 done +volume 1
            head 1 1 4 3 5 512: r9 done +volume 1
            restore 1 1 2: volume "v" has no such snapshot
            restore 1 2 1: epoch 2 of the volume has ended; 1 is current
            restore 1 1 1: r10 done +volume 1
            all 1: v size 4096
                head 1:2 epoch 1 log 3/5/512
                snapshot 1=a size 4096 head 1:2 epoch 1 log 1/8/0 readers []
                retired 1:4 epoch 1 log 3/5/512
            restore 1 1 1: r11 done +volume 1
            all 1: v size 4096
                head 1:2 epoch 1 log 3/5/512
                snapshot 1=a size 4096 head 1:2 epoch 1 log 1/8/0 readers []
                retired 1:4 epoch 1 log 3/5/512
            snapshot 1 1 b: r12 snapshot 2 +volume 1
            drop 1 1: r13 done +volume 1
            all 1: v size 4096
                head 1:2 epoch 1 log 3/5/512
                snapshot 2=b size 4096 head 1:2 epoch 1 log 3/5/512 readers []
                retired 1:4 epoch 1 log 3/5/512
            unlock 1 1: r14 done +volume 1
            restore 1 1 2: epoch 1 of the volume is not locked
        "#]],
    );
}

#[test]
fn a_former_head_that_a_snapshot_names_is_not_retired() {
    check_on(
        prepared(WRITTEN),
        "snapshot 1 1 a
        head 1 1 4 3 0 0
        snapshot 1 1 b
        restore 1 1 1
        restore 1 1 2
        all 1",
        expect![[r#"
            snapshot 1 1 a: r7 snapshot 1 +volume 1
            head 1 1 4 3 0 0: r8 done +volume 1
            snapshot 1 1 b: r9 snapshot 2 +volume 1
            restore 1 1 1: r10 done +volume 1
            restore 1 1 2: r11 done +volume 1
            all 1: v size 4096
                head 1:4 epoch 1 log 3/0/0
                snapshot 1=a size 4096 head 1:2 epoch 1 log 1/8/0 readers []
                snapshot 2=b size 4096 head 1:4 epoch 1 log 3/0/0 readers []
        "#]],
    );
}

#[test]
fn readers_protect_a_snapshot_while_their_session_lives() {
    check_on(
        prepared(WRITTEN),
        "snapshot 1 1 a
        open bob 1000
        pin 1 1 99
        pin 1 2 8
        pin 2 1 8
        pin 1 1 8
        pin 1 1 8
        drop 1 1
        all 1
        unlock 1 1
        delete v
        close 8
        drop 1 1
        delete v",
        expect![[r#"
            snapshot 1 1 a: r7 snapshot 1 +volume 1
            open bob 1000: r8 session 8 +session 8
            pin 1 1 99: the session has ended
            pin 1 2 8: volume "v" has no such snapshot
            pin 2 1 8: there is no volume with ID 2
            pin 1 1 8: r9 done +volume 1
            pin 1 1 8: r9 done
            drop 1 1: snapshot "a" of volume "v" is being read; --force deletes it all the same
            all 1: v size 4096
                head 1:2 epoch 1 log 1/8/0
                snapshot 1=a size 4096 head 1:2 epoch 1 log 1/8/0 readers [8]
            unlock 1 1: r10 done +volume 1
            delete v: snapshot "a" of volume "v" is being read; --force deletes it all the same
            close 8: r11 done +volume 1 -session 8
            drop 1 1: r12 done +volume 1
            delete v: r13 done -volume 1
        "#]],
    );
}

#[test]
fn force_deletes_what_is_being_read() {
    let state = prepared(&format!("{WRITTEN} snapshot 1 1 a\nsnapshot 1 1 b\nopen bob 1000"));
    check_on(
        state,
        "pin 1 1 9
        pin 1 2 9
        drop! 1 1
        delete! v
        unlock 1 1
        delete v
        delete! v
        close 9",
        expect![[r#"
            pin 1 1 9: r10 done +volume 1
            pin 1 2 9: r11 done +volume 1
            drop! 1 1: r12 done +volume 1
            delete! v: volume "v" is in use by alice
            unlock 1 1: r13 done +volume 1
            delete v: snapshot "b" of volume "v" is being read; --force deletes it all the same
            delete! v: r14 done -volume 1
            close 9: r15 done -session 9
        "#]],
    );
}

#[test]
fn a_volume_with_snapshots_is_deleted_only_by_force() {
    let state = prepared(&format!("{WRITTEN} snapshot 1 1 a\nunlock 1 1"));
    check_on(
        state,
        "delete v
        delete! w
        delete! v
        drop 1 1",
        expect![[r#"
            delete v: volume "v" has 1 snapshot; delete it first, or use --force
            delete! w: there is no volume "w"
            delete! v: r9 done -volume 1
            drop 1 1: there is no volume with ID 1
        "#]],
    );
}

#[test]
fn an_unknown_snapshot_of_a_known_volume_is_named_by_the_volume() {
    let mut state = prepared(WRITTEN);
    let volume = torus_blockstore::VolumeId::new(1).unwrap();
    let command = Command::DeleteSnapshot { volume, snapshot: SnapshotId(0), force: true };
    let refused = state.apply(9, command).0.unwrap_err();
    assert_eq!(refused, Refusal::NoSuchSnapshot { volume: "v".to_owned() });
}
