//! Which checkpoint may follow which, where snapshots and clones are about.

use expect_test::expect;

use super::snapshots::WRITTEN;
use super::{check_on, prepared};

#[test]
fn what_was_retired_does_not_come_back() {
    check_on(
        prepared(WRITTEN),
        "snapshot 1 1 a
        head 1 1 5 3 0 0
        restore 1 1 1
        head 1 1 5 3 0 0
        head 1 1 4 3 0 0
        head 1 1 2 1 9 0
        head 1 1 2 3 9 0
        head 1 1 6 3 9 0
        all 1",
        expect![[r#"
            snapshot 1 1 a: r7 snapshot 1 +volume 1
            head 1 1 5 3 0 0: r8 done +volume 1
            restore 1 1 1: r9 done +volume 1
            head 1 1 5 3 0 0: the head does not follow the volume's last one
            head 1 1 4 3 0 0: the head does not follow the volume's last one
            head 1 1 2 1 9 0: the head does not follow the volume's last one
            head 1 1 2 3 9 0: r10 done +volume 1
            head 1 1 6 3 9 0: r11 done +volume 1
            all 1: v size 4096
                head 1:6 epoch 1 log 3/9/0
                snapshot 1=a size 4096 head 1:2 epoch 1 log 1/8/0 readers []
                retired 1:5 epoch 1 log 3/0/0
        "#]],
    );
}

#[test]
fn a_snapshots_checkpoint_comes_back_only_by_restoring() {
    check_on(
        prepared(WRITTEN),
        "snapshot 1 1 a
        head 1 1 5 3 0 0
        snapshot 1 1 b
        restore 1 1 1
        head 1 1 5 3 0 0
        restore 1 1 2
        head 1 1 5 3 1 0",
        expect![[r#"
            snapshot 1 1 a: r7 snapshot 1 +volume 1
            head 1 1 5 3 0 0: r8 done +volume 1
            snapshot 1 1 b: r9 snapshot 2 +volume 1
            restore 1 1 1: r10 done +volume 1
            head 1 1 5 3 0 0: the head does not follow the volume's last one
            restore 1 1 2: r11 done +volume 1
            head 1 1 5 3 1 0: r12 done +volume 1
        "#]],
    );
}

#[test]
fn a_checkpoint_is_told_again_only_as_it_was() {
    check_on(
        prepared(WRITTEN),
        "head-of 1 1 1 2 1 1 9 0
        head-of 1 1 1 2 2 1 9 0
        head-of 1 1 1 2 0 1 9 0
        head-of 1 1 7 3 1 1 9 0",
        expect![[r#"
            head-of 1 1 1 2 1 1 9 0: r7 done +volume 1
            head-of 1 1 1 2 2 1 9 0: the head does not follow the volume's last one
            head-of 1 1 1 2 0 1 9 0: the head is not valid: a checkpoint has at least one block
            head-of 1 1 7 3 1 1 9 0: the head is not valid: the checkpoint is another volume's
        "#]],
    );
}

#[test]
fn a_clone_goes_on_from_its_parents_checkpoint_and_then_has_its_own() {
    let parent = format!("{WRITTEN} snapshot 1 1 a\nclone 1 1 c\nlock 2 3\nreserve 2 1 4");
    check_on(
        prepared(&parent),
        "all 2
        head-of 2 1 1 2 1 1 0 0
        head-of 2 1 1 2 1 5 0 0
        head-of 2 1 1 3 1 1 0 0
        head-of 2 1 1 2 2 1 1 0
        head-of 2 1 1 2 1 0 0 0
        all 2
        head-of 2 1 2 2 1 1 7 0
        head-of 2 1 1 2 1 1 7 0
        all 2",
        expect![[r#"
            all 2: c size 4096
                head 1:2 epoch 0 log 0/0/0
                parent 1@1, needed by head: true
            head-of 2 1 1 2 1 1 0 0: r11 done +volume 2
            head-of 2 1 1 2 1 5 0 0: the INode index is not valid: it was not reserved
            head-of 2 1 1 3 1 1 0 0: the head is not valid: the checkpoint is another volume's
            head-of 2 1 1 2 2 1 1 0: the head does not follow the volume's last one
            head-of 2 1 1 2 1 0 0 0: the INode index is not valid: it was not reserved
            all 2: c size 4096
                head 1:2 epoch 1 log 1/0/0
                parent 1@1, needed by head: true
            head-of 2 1 2 2 1 1 7 0: r12 done +volume 2
            head-of 2 1 1 2 1 1 7 0: the head is not valid: the checkpoint is another volume's
            all 2: c size 4096
                head 2:2 epoch 1 log 1/7/0
                parent 1@1, needed by head: true
        "#]],
    );
}
