//! Clones, and how long they need their parents.

use expect_test::expect;

use super::snapshots::WRITTEN;
use super::{check_on, prepared};

/// Volume 2 is a clone of snapshot 1 of volume 1, locked with epoch 1.
fn cloned() -> super::State {
    let script = "snapshot 1 1 a\nclone 1 1 c\nlock 2 3\nreserve 2 1 9";
    prepared(&format!("{WRITTEN} {script}"))
}

#[test]
fn a_clone_is_a_new_volume_with_its_parents_content() {
    check_on(
        prepared(&format!("{WRITTEN} snapshot 1 1 a\ngrow 1 8192\nhead 1 1 4 3 0 0")),
        "clone 1 2 c
        clone 2 1 c
        clone 1 1 v
        clone 1 1 .c
        clone 1 1 c
        clone 1 1 c
        show 2
        all 2
        clone 1 1 d",
        expect![[r#"
            clone 1 2 c: volume "v" has no such snapshot
            clone 2 1 c: there is no volume with ID 2
            clone 1 1 v: a volume named "v" exists already
            clone 1 1 .c: the volume name is not valid: it must not start with '-' or '.'
            clone 1 1 c: r10 volume 2 +volume 2
            clone 1 1 c: a volume named "c" exists already
            show 2: free epoch 0 head Some(2) windows []
            all 2: c size 4096
                head 1:2 epoch 0 log 0/0/0
                parent 1@1, needed by head: true
            clone 1 1 d: r11 volume 3 +volume 3
        "#]],
    );
}

#[test]
fn what_a_clone_needs_is_not_deleted() {
    check_on(
        cloned(),
        "unlock 1 1
        drop 1 1
        drop! 1 1
        clone 1 1 d
        delete! v
        delete d
        delete! v
        unlock 2 1
        delete c
        drop 1 1
        delete v",
        expect![[r#"
            unlock 1 1: r11 done +volume 1
            drop 1 1: 1 clone was made from snapshot "a" of volume "v"; flatten or delete it first
            drop! 1 1: 1 clone was made from snapshot "a" of volume "v"; flatten or delete it first
            clone 1 1 d: r12 volume 3 +volume 3
            delete! v: 2 clones were made from snapshot "a" of volume "v"; flatten or delete them first
            delete d: r13 done -volume 3
            delete! v: 1 clone was made from snapshot "a" of volume "v"; flatten or delete it first
            unlock 2 1: r14 done +volume 2
            delete c: r15 done -volume 2
            drop 1 1: r16 done +volume 1
            delete v: r17 done -volume 1
        "#]],
    );
}

#[test]
fn a_flattened_clone_lets_its_parent_go() {
    check_on(
        cloned(),
        "flattened 2 1
        head 2 1 2 1 0 0
        flattened 2 2
        flattened 2 1
        flattened 2 1
        all 2
        drop 1 1
        flattened 1 1",
        expect![[r#"
            flattened 2 1: the flattening is not valid: the volume has made no checkpoint of its own yet
            head 2 1 2 1 0 0: r11 done +volume 2
            flattened 2 2: epoch 2 of the volume has ended; 1 is current
            flattened 2 1: r12 done +volume 2
            flattened 2 1: r12 done
            all 2: c size 4096
                head 2:2 epoch 1 log 1/0/0
            drop 1 1: r13 done +volume 1
            flattened 1 1: r13 done
        "#]],
    );
}

#[test]
fn a_clones_own_snapshots_need_the_parent_too() {
    check_on(
        cloned(),
        "snapshot 2 1 x
        head 2 1 2 1 0 0
        snapshot 2 1 y
        flattened 2 1
        snapshot 2 1 z
        all 2
        drop 1 1
        drop 2 1
        drop 2 2
        all 2
        drop 1 1",
        expect![[r#"
            snapshot 2 1 x: r11 snapshot 1 +volume 2
            head 2 1 2 1 0 0: r12 done +volume 2
            snapshot 2 1 y: r13 snapshot 2 +volume 2
            flattened 2 1: r14 done +volume 2
            snapshot 2 1 z: r15 snapshot 3 +volume 2
            all 2: c size 4096
                head 2:2 epoch 1 log 1/0/0
                parent 1@1, needed by head: false
                snapshot 1=x size 4096 head 1:2 epoch 0 log 0/0/0 readers [] needs parent
                snapshot 2=y size 4096 head 2:2 epoch 1 log 1/0/0 readers [] needs parent
                snapshot 3=z size 4096 head 2:2 epoch 1 log 1/0/0 readers []
            drop 1 1: 1 clone was made from snapshot "a" of volume "v"; flatten or delete it first
            drop 2 1: r16 done +volume 2
            drop 2 2: r17 done +volume 2
            all 2: c size 4096
                head 2:2 epoch 1 log 1/0/0
                snapshot 3=z size 4096 head 2:2 epoch 1 log 1/0/0 readers []
            drop 1 1: r18 done +volume 1
        "#]],
    );
}

#[test]
fn restoring_a_clone_needs_the_parent_as_the_snapshot_does() {
    check_on(
        cloned(),
        "snapshot 2 1 x
        head 2 1 2 1 0 0
        flattened 2 1
        snapshot 2 1 y
        restore 2 1 1
        all 2
        flattened 2 1
        drop 2 1
        restore 2 1 2
        all 2
        drop 1 1",
        expect![[r#"
            snapshot 2 1 x: r11 snapshot 1 +volume 2
            head 2 1 2 1 0 0: r12 done +volume 2
            flattened 2 1: r13 done +volume 2
            snapshot 2 1 y: r14 snapshot 2 +volume 2
            restore 2 1 1: r15 done +volume 2
            all 2: c size 4096
                head 1:2 epoch 1 log 1/0/0
                parent 1@1, needed by head: true
                snapshot 1=x size 4096 head 1:2 epoch 0 log 0/0/0 readers [] needs parent
                snapshot 2=y size 4096 head 2:2 epoch 1 log 1/0/0 readers []
            flattened 2 1: the flattening is not valid: the volume has made no checkpoint of its own yet
            drop 2 1: r16 done +volume 2
            restore 2 1 2: r17 done +volume 2
            all 2: c size 4096
                head 2:2 epoch 1 log 1/0/0
                snapshot 2=y size 4096 head 2:2 epoch 1 log 1/0/0 readers []
            drop 1 1: r18 done +volume 1
        "#]],
    );
}

#[test]
fn deleting_a_foreign_checkpoint_retires_nothing() {
    check_on(
        cloned(),
        "snapshot 2 1 x
        head 2 1 2 1 0 0
        drop 2 1
        all 2",
        expect![[r#"
            snapshot 2 1 x: r11 snapshot 1 +volume 2
            head 2 1 2 1 0 0: r12 done +volume 2
            drop 2 1: r13 done +volume 2
            all 2: c size 4096
                head 2:2 epoch 1 log 1/0/0
                parent 1@1, needed by head: true
        "#]],
    );
}

#[test]
fn a_clone_of_an_untouched_clone_holds_on_to_both() {
    check_on(
        cloned(),
        "snapshot 2 1 x
        clone 2 1 d
        all 3
        unlock 2 1
        unlock 1 1
        delete! c
        drop 2 1
        delete! v
        delete d
        delete! c
        delete! v",
        expect![[r#"
            snapshot 2 1 x: r11 snapshot 1 +volume 2
            clone 2 1 d: r12 volume 3 +volume 3
            all 3: d size 4096
                head 1:2 epoch 0 log 0/0/0
                parent 2@1, needed by head: true
            unlock 2 1: r13 done +volume 2
            unlock 1 1: r14 done +volume 1
            delete! c: 1 clone was made from snapshot "x" of volume "c"; flatten or delete it first
            drop 2 1: 1 clone was made from snapshot "x" of volume "c"; flatten or delete it first
            delete! v: 1 clone was made from snapshot "a" of volume "v"; flatten or delete it first
            delete d: r15 done -volume 3
            delete! c: r16 done -volume 2
            delete! v: r17 done -volume 1
        "#]],
    );
}
