//! Asking writers, their answers, and what can be changed without them.

use expect_test::expect;

use super::snapshots::WRITTEN;
use super::{check_on, parse, prepared};
use crate::{AskId, Command, Refusal};

/// Volumes 1 and 2, locked by alice with epoch 1, and 3, that nobody has.
const TWO: &str = "create v 4096
    create w 4096
    create x 4096
    open alice 1000
    lock 1 5
    lock 2 5
    reserve 1 1 9
    head 1 1 2 1 8 0
    reserve 2 1 9
    head 2 1 2 1 8 0\n";

#[test]
fn an_ask_is_answered_by_what_was_asked() {
    check_on(
        prepared(WRITTEN),
        "ask 1 snapshot a
        ask 1 resize 8192
        ask 1 flatten
        all 1
        snapshot 1 1 b 99
        snapshot 1 1 a 7
        snapshot 1 1 b 7
        resize 1 1 8192 8
        flattened 1 1 9
        flattened 1 1 9
        all 1",
        expect![[r#"
            ask 1 snapshot a: r7 ask 7 +volume 1
            ask 1 resize 8192: r8 ask 8 +volume 1
            ask 1 flatten: r9 ask 9 +volume 1
            all 1: v size 4096
                head 1:2 epoch 1 log 1/8/0
                ask 7 of [1]: Snapshot { name: "a", created_ms: 7 }
                ask 8 of [1]: Resize { size: 8192, discard: false }
                ask 9 of [1]: Flatten
            snapshot 1 1 b 99: this was not asked, or was answered or withdrawn
            snapshot 1 1 a 7: r10 snapshot 1 +volume 1
            snapshot 1 1 b 7: this was not asked, or was answered or withdrawn
            resize 1 1 8192 8: r11 done +volume 1
            flattened 1 1 9: r12 done +volume 1
            flattened 1 1 9: this was not asked, or was answered or withdrawn
            all 1: v size 8192
                head 1:2 epoch 1 log 1/8/0
                snapshot 1=a size 4096 head 1:2 epoch 1 log 1/8/0 readers []
                answer 7: done
                answer 8: done
                answer 9: done
        "#]],
    );
}

#[test]
fn an_ask_is_refused_or_withdrawn_once() {
    let state = prepared(&format!("{TWO} ask 1,2 snapshot a\nask 1 flatten"));
    check_on(
        state,
        "refuse 1 2 12 no
        refuse 1 1 12 no room
        refuse 1 1 12 no room
        all 1
        withdraw 12
        withdraw 12
        all 2
        snapshot 2 1 a 12
        withdraw 13
        all 1",
        expect![[r#"
            refuse 1 2 12 no: epoch 2 of the volume has ended; 1 is current
            refuse 1 1 12 no room: r14 done +volume 1
            refuse 1 1 12 no room: this was not asked, or was answered or withdrawn
            all 1: v size 4096
                head 1:2 epoch 1 log 1/8/0
                ask 13 of [1]: Flatten
                answer 12: no room
            withdraw 12: r15 done +volume 2
            withdraw 12: r15 done
            all 2: w size 4096
                head 2:2 epoch 1 log 1/8/0
            snapshot 2 1 a 12: this was not asked, or was answered or withdrawn
            withdraw 13: r16 done +volume 1
            all 1: v size 4096
                head 1:2 epoch 1 log 1/8/0
                answer 12: no room
        "#]],
    );
}

#[test]
fn an_answers_text_is_cut_between_characters() {
    let state = prepared(&format!("{WRITTEN} ask 1 flatten"));
    let volume = torus_blockstore::VolumeId::new(1).unwrap();
    for (text, kept) in [("ä".repeat(300), 512), ("xä".repeat(300), 511), (String::new(), 0)] {
        let mut state = state.clone();
        let epoch = torus_blockstore::Epoch(1);
        let command = Command::RefuseAsk { volume, epoch, ask: AskId(7), error: text.clone() };
        state.apply(9, command).0.unwrap();
        let error = state.volumes[&volume].answers[0].error.clone();
        assert_eq!(error.as_deref(), Some(&text[..kept]));
    }
}

#[test]
fn only_writers_can_be_asked_and_groups_only_for_snapshots() {
    check_on(
        prepared(TWO),
        "open bob 1000
        ask 9 flatten
        ask 3 flatten
        ask 1,3 snapshot a
        ask 1,1 snapshot a
        ask 1,2 flatten
        ask 1,2 resize 8192
        ask 1 resize 0
        ask 1 resize 281474976710657
        ask 1,2 snapshot .a
        snapshot 2 1 a
        ask 1,2 snapshot a
        ask 2 snapshot b
        ask 1,2 snapshot b
        lock 3 12
        ask 1,3 snapshot c
        ask 2,1 snapshot c
        all 1",
        expect![[r#"
            open bob 1000: r12 session 12 +session 12
            ask 9 flatten: there is no volume with ID 9
            ask 3 flatten: volume "x" is not in use: it has no writer that could be asked
            ask 1,3 snapshot a: volume "x" is not in use: it has no writer that could be asked
            ask 1,1 snapshot a: the group is not valid: a volume stands twice in it
            ask 1,2 flatten: the group is not valid: several volumes at once can only be asked for snapshots
            ask 1,2 resize 8192: the group is not valid: several volumes at once can only be asked for snapshots
            ask 1 resize 0: the size is not valid: it must be more than 0
            ask 1 resize 281474976710657: the size is not valid: a volume has at most 256 TiB
            ask 1,2 snapshot .a: the snapshot name is not valid: it must not start with '-' or '.'
            snapshot 2 1 a: r13 snapshot 1 +volume 2
            ask 1,2 snapshot a: volume "w" has a snapshot named "a" already
            ask 2 snapshot b: r14 ask 14 +volume 2
            ask 1,2 snapshot b: volume "w" has a snapshot named "b" already
            lock 3 12: r15 epoch 1 +volume 3
            ask 1,3 snapshot c: the volumes are in use in different places; a group snapshot needs them in one
            ask 2,1 snapshot c: r16 ask 16 +volume 2 +volume 1
            all 1: v size 4096
                head 1:2 epoch 1 log 1/8/0
                ask 16 of [2, 1]: Snapshot { name: "c", created_ms: 7 }
        "#]],
    );
}

#[test]
fn groups_and_open_asks_are_limited() {
    let mut state = prepared(WRITTEN);
    let volume = |raw| torus_blockstore::VolumeId::new(raw).unwrap();
    for group in [vec![], (1..=65).map(volume).collect()] {
        let task = crate::Task::Snapshot { name: "a".to_owned(), created_ms: 7 };
        let command = Command::AskWriters { volumes: group, task };
        assert_eq!(state.apply(9, command).0, Err(Refusal::ASK_GROUP_SIZE));
    }
    for _ in 0..16 {
        state.apply(9, parse("ask 1 flatten")).0.unwrap();
    }
    assert_eq!(state.apply(9, parse("ask 1 flatten")).0, Err(Refusal::ASK_LIMIT));
    for ask in 7..=22 {
        state.apply(9, parse(&format!("refuse 1 1 {ask} no"))).0.unwrap();
    }
    for _ in 0..4 {
        state.apply(9, parse("ask 1 flatten")).0.unwrap();
    }
    state.apply(9, parse("unlock 1 1")).0.unwrap();
    // The newest 16 answers are kept: 7 to 10 are gone.
    let answers = &state.volumes[&volume(1)].answers;
    assert_eq!((answers.len(), answers[0].id), (16, AskId(11)));
}

#[test]
fn what_a_closed_volumes_writer_was_asked_is_answered() {
    check_on(
        prepared(TWO),
        "ask 1,2 snapshot a
        unlock 1 1
        all 1
        lock 2 5
        all 2
        ask 2 flatten
        expire 5
        all 2
        snapshot 2 2 a 14",
        expect![[r#"
            ask 1,2 snapshot a: r12 ask 12 +volume 1 +volume 2
            unlock 1 1: r13 done +volume 1
            all 1: v size 4096
                head 1:2 epoch 1 log 1/8/0
                answer 12: the volume was closed before it was done
            lock 2 5: r14 epoch 2 +volume 2
            all 2: w size 4096
                head 2:2 epoch 1 log 1/8/0
                answer 12: the volume was closed before it was done
            ask 2 flatten: r15 ask 15 +volume 2
            expire 5: r16 done +volume 2 -session 5
            all 2: w size 4096
                head 2:2 epoch 1 log 1/8/0
                answer 12: the volume was closed before it was done
                answer 15: the volume was closed before it was done
            snapshot 2 2 a 14: epoch 2 of the volume is not locked
        "#]],
    );
}

#[test]
fn anyone_makes_a_volume_larger_and_only_its_writer_smaller() {
    check_on(
        prepared(WRITTEN),
        "grow 1 8192
        grow 1 8192
        grow 1 4096
        grow 1 0
        grow 1 281474976710657
        grow 9 1
        resize 1 2 4096
        resize 1 1 4096
        resize 1 1 4096
        resize 1 1 0
        ask 1 resize 4096
        resize 1 1 4096 99
        resize 1 1 4096 9
        all 1",
        expect![[r#"
            grow 1 8192: r7 done +volume 1
            grow 1 8192: r7 done
            grow 1 4096: the volume is smaller only by its writer's word
            grow 1 0: the size is not valid: it must be more than 0
            grow 1 281474976710657: the size is not valid: a volume has at most 256 TiB
            grow 9 1: there is no volume with ID 9
            resize 1 2 4096: epoch 2 of the volume has ended; 1 is current
            resize 1 1 4096: r8 done +volume 1
            resize 1 1 4096: r8 done
            resize 1 1 0: the size is not valid: it must be more than 0
            ask 1 resize 4096: r9 ask 9 +volume 1
            resize 1 1 4096 99: this was not asked, or was answered or withdrawn
            resize 1 1 4096 9: r10 done +volume 1
            all 1: v size 4096
                head 1:2 epoch 1 log 1/8/0
                answer 9: done
        "#]],
    );
}

#[test]
fn a_volume_is_renamed_while_it_is_in_use() {
    check_on(
        prepared(TWO),
        "rename v w
        rename v v
        rename q r
        rename v .r
        rename v r
        show 1
        delete v
        create v 4096
        rename x v
        delete r
        unlock 1 1
        delete r
        rename x r",
        expect![[r#"
            rename v w: a volume named "w" exists already
            rename v v: a volume named "v" exists already
            rename q r: there is no volume "q"
            rename v .r: the volume name is not valid: it must not start with '-' or '.'
            rename v r: r12 done +volume 1
            show 1: alice epoch 1 head Some(2) windows []
            delete v: there is no volume "v"
            create v 4096: r13 volume 4 +volume 4
            rename x v: a volume named "v" exists already
            delete r: volume "r" is in use by alice
            unlock 1 1: r14 done +volume 1
            delete r: r15 done -volume 1
            rename x r: r16 done +volume 3
        "#]],
    );
}
