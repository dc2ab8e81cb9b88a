//! Scripts: one command a line, and what the state machine said to it.

use expect_test::expect;

use self::script::{check, check_on, parse, prepared};
use super::State;
use crate::{Command, fixtures};

mod asks;
mod clones;
mod heads;
mod random;
mod rebirth;
mod script;
mod snapshots;

#[test]
fn nothing_but_registration_goes_before_init() {
    check_on(
        State::default(),
        "create v 1
        node 5
        register 5
        init
        init
        create v 1",
        expect![[r#"
            create v 1: the cluster is not initialised; run 'torusctl init'
            node 5: r1 node 11
            register 5: r2 done +peer 5@11
            init: r3 done +init +ring 1
            init: the cluster is already initialised
            create v 1: r4 volume 1 +volume 1
        "#]],
    );
}

#[test]
fn volumes_have_names_and_ids_of_their_own() {
    check(
        "create a 1
        create a 1
        create b 281474976710656
        create c 281474976710657
        create c 1152921504606846976
        create c 0
        delete a
        delete a
        create a 1",
        expect![[r#"
            create a 1: r2 volume 1 +volume 1
            create a 1: a volume named "a" exists already
            create b 281474976710656: r3 volume 2 +volume 2
            create c 281474976710657: the size is not valid: a volume has at most 256 TiB
            create c 1152921504606846976: the size is not valid: a volume has at most 256 TiB
            create c 0: the size is not valid: it must be more than 0
            delete a: r4 done -volume 1
            delete a: there is no volume "a"
            create a 1: r5 volume 3 +volume 3
        "#]],
    );
}

#[test]
fn volume_names_are_checked() {
    let long = format!("create {} 1", "x".repeat(255));
    let mut state = State::default();
    state.apply(1, fixtures::init()).0.unwrap();
    state.apply(2, parse(&long)).0.unwrap();
    let longer = "x".repeat(256);
    for bad in ["", ".", "-a", ".a", "a/b", "a@b", "a b", "ä", longer.as_str()] {
        let name = bad.to_owned();
        let (response, _) = state.apply(3, Command::CreateVolume { name, size: 1, spec: None });
        assert!(matches!(response, Err(crate::Refusal::Invalid { .. })), "{bad:?}: {response:?}");
    }
}

#[test]
fn the_ring_is_changed_by_compare_and_swap() {
    check(
        "ring 2 1
        register 1
        register 2
        ring 2 1
        ring 2 1 2
        ring 4 1 2
        ring 3 1 1
        remove 1
        ring 3 2
        remove 1
        remove 1
        rings kept",
        expect![[r#"
            ring 2 1: there is no such peer
            register 1: r2 done +peer 1
            register 2: r3 done +peer 2
            ring 2 1: r4 done +ring 2
            ring 2 1 2: the ring is at version 2; version 2 does not follow it
            ring 4 1 2: the ring is at version 2; version 4 does not follow it
            ring 3 1 1: the ring is not valid: a peer stands twice in it
            remove 1: the ring names the peer; take it out with 'torusctl peer remove' first
            ring 3 2: r5 done +ring 3
            remove 1: r6 done -peer 1
            remove 1: there is no such peer
            rings: [3]
        "#]],
    );
}

#[test]
fn a_ring_is_kept_while_a_window_names_it() {
    check(
        "register 1
        register 2
        ring 2 1
        create v 1
        open host 1000
        lock 1 6
        reserve 1 1 2
        window 1 1 1 2 0 64
        ring 3 2
        rings kept
        remove 1
        ring 4 2
        rings kept
        head 1 1 2 1 64 0
        rings kept
        remove 1",
        expect![[r#"
            register 1: r2 done +peer 1
            register 2: r3 done +peer 2
            ring 2 1: r4 done +ring 2
            create v 1: r5 volume 1 +volume 1
            open host 1000: r6 session 6 +session 6
            lock 1 6: r7 epoch 1 +volume 1
            reserve 1 1 2: r8 inode 1 +volume 1
            window 1 1 1 2 0 64: r9 done +volume 1
            ring 3 2: r10 done +ring 3
            rings: [2, 3]
            remove 1: open windows may still have blocks on the peer; it can go after their checkpoint
            ring 4 2: r11 done +ring 4
            rings: [2, 4]
            head 1 1 2 1 64 0: r12 done +volume 1
            rings: [4]
            remove 1: r13 done -peer 1
        "#]],
    );
}

#[test]
fn a_lock_is_one_sessions_and_its_epoch_grows() {
    check(
        "create v 1
        lock 1 3
        open alice 1000
        open bob 1000
        lock 1 3
        lock 1 4
        delete v
        lock 1 3
        unlock 1 1
        unlock 1 2
        unlock 1 2
        lock 1 4
        relock 1 3 2
        close 4
        relock 1 3 2
        show 1
        delete v
        lock 1 3",
        expect![[r#"
            create v 1: r2 volume 1 +volume 1
            lock 1 3: the session has ended
            open alice 1000: r3 session 3 +session 3
            open bob 1000: r4 session 4 +session 4
            lock 1 3: r5 epoch 1 +volume 1
            lock 1 4: volume "v" is in use by alice
            delete v: volume "v" is in use by alice
            lock 1 3: r6 epoch 2 +volume 1
            unlock 1 1: epoch 1 of the volume has ended; 2 is current
            unlock 1 2: r7 done +volume 1
            unlock 1 2: r7 done
            lock 1 4: r8 epoch 3 +volume 1
            relock 1 3 2: epoch 2 of the volume has ended; 3 is current
            close 4: r9 done +volume 1 -session 4
            relock 1 3 2: epoch 2 of the volume has ended; 3 is current
            show 1: free epoch 3 head None windows []
            delete v: r10 done -volume 1
            lock 1 3: there is no volume with ID 1
        "#]],
    );
}

#[test]
fn an_ended_session_loses_its_locks_and_may_take_them_again() {
    check(
        "create v 1
        open alice 1000
        lock 1 3
        expire 3 99
        expire 3
        reserve 1 1 1
        window 1 1 1 1 0 64
        relock 1 3 1
        open alice 1000
        relock 1 7 0
        relock 1 7 1
        relock 1 7 1
        window 1 1 1 1 0 64
        close 7
        close 7",
        expect![[r#"
            create v 1: r2 volume 1 +volume 1
            open alice 1000: r3 session 3 +session 3
            lock 1 3: r4 epoch 1 +volume 1
            expire 3 99: r5 done +volume 1 -session 3
            expire 3: r5 done
            reserve 1 1 1: r6 inode 1 +volume 1
            window 1 1 1 1 0 64: epoch 1 of the volume is not locked
            relock 1 3 1: the session has ended
            open alice 1000: r7 session 7 +session 7
            relock 1 7 0: epoch 0 of the volume has ended; 1 is current
            relock 1 7 1: r8 done +volume 1
            relock 1 7 1: r8 done
            window 1 1 1 1 0 64: r9 done +volume 1
            close 7: r10 done +volume 1 -session 7
            close 7: the session has ended
        "#]],
    );
}

const WRITER: &str = "create v 1
    open alice 1000
    lock 1 3
    reserve 1 1 3\n";

#[test]
fn windows_follow_one_another() {
    check(
        &format!(
            "{WRITER} reserve 1 2 1
            window 1 2 1 1 0 64
            window 1 1 1 2 0 64
            window 1 1 4 1 0 64
            window 1 1 0 1 0 64
            window 1 1 1 1 0 0
            window 1 1 1 1 18446744073709551615 64
            window 1 1 1 1 0 64
            window 1 1 1 1 0 64
            window 1 1 1 1 65 64
            window 1 1 1 1 64 64
            window 1 1 1 1 200 64 after 1 10 500
            window 1 1 1 1 100 64 after 1 100 500
            window 1 1 2 1 0 64
            window 1 1 1 1 264 64
            show 1"
        ),
        expect![[r#"
            create v 1: r2 volume 1 +volume 1
            open alice 1000: r3 session 3 +session 3
            lock 1 3: r4 epoch 1 +volume 1
            reserve 1 1 3: r5 inode 1 +volume 1
            reserve 1 2 1: epoch 2 of the volume has ended; 1 is current
            window 1 2 1 1 0 64: epoch 2 of the volume has ended; 1 is current
            window 1 1 1 2 0 64: ring version 2 is not kept
            window 1 1 4 1 0 64: the INode index is not valid: it was not reserved
            window 1 1 0 1 0 64: the INode index is not valid: it was not reserved
            window 1 1 1 1 0 0: the window is not valid: it must have 1 to 65536 blocks
            window 1 1 1 1 18446744073709551615 64: the window is not valid: it must have 1 to 65536 blocks
            window 1 1 1 1 0 64: r6 done +volume 1
            window 1 1 1 1 0 64: the window does not follow the volume's last one
            window 1 1 1 1 65 64: the window does not follow the volume's last one
            window 1 1 1 1 64 64: r7 done +volume 1
            window 1 1 1 1 200 64 after 1 10 500: r8 done +volume 1
            window 1 1 1 1 100 64 after 1 100 500: the window does not follow the volume's last one
            window 1 1 2 1 0 64: r9 done +volume 1
            window 1 1 1 1 264 64: the window does not follow the volume's last one
            show 1: alice epoch 1 head None windows ["1:0..64", "1:64..128", "1:200..264", "2:0..64"]
        "#]],
    );
}

#[test]
fn a_head_moves_forward_and_drops_the_windows_behind_it() {
    check(
        &format!(
            "{WRITER} window 1 1 1 1 0 64
            window 1 1 1 1 64 64
            window 1 1 2 1 0 64
            head 1 1 3 1 64 512
            show 1
            head 1 1 3 1 64 0
            head 1 1 2 1 64 512
            head 1 1 9 2 0 0
            head 1 2 3 2 0 0
            head 1 1 3 2 64 0
            show 1
            window 1 1 2 1 0 64
            window 1 1 2 1 128 64 after 2 63 0
            window 1 1 1 1 64 64
            window 1 1 2 1 64 64
            show 1"
        ),
        expect![[r#"
            create v 1: r2 volume 1 +volume 1
            open alice 1000: r3 session 3 +session 3
            lock 1 3: r4 epoch 1 +volume 1
            reserve 1 1 3: r5 inode 1 +volume 1
            window 1 1 1 1 0 64: r6 done +volume 1
            window 1 1 1 1 64 64: r7 done +volume 1
            window 1 1 2 1 0 64: r8 done +volume 1
            head 1 1 3 1 64 512: r9 done +volume 1
            show 1: alice epoch 1 head Some(3) windows ["1:64..128", "2:0..64"]
            head 1 1 3 1 64 0: the head does not follow the volume's last one
            head 1 1 2 1 64 512: the head does not follow the volume's last one
            head 1 1 9 2 0 0: the INode index is not valid: it was not reserved
            head 1 2 3 2 0 0: epoch 2 of the volume has ended; 1 is current
            head 1 1 3 2 64 0: r10 done +volume 1
            show 1: alice epoch 1 head Some(3) windows []
            window 1 1 2 1 0 64: the window does not follow the volume's last one
            window 1 1 2 1 128 64 after 2 63 0: the window does not follow the volume's last one
            window 1 1 1 1 64 64: the window does not follow the volume's last one
            window 1 1 2 1 64 64: r11 done +volume 1
            show 1: alice epoch 1 head Some(3) windows ["2:64..128"]
        "#]],
    );
}

#[test]
fn a_new_owner_shuts_out_the_old_one() {
    check(
        &format!(
            "{WRITER} open bob 1000
            expire 3
            head 1 1 1 1 0 0
            lock 1 6
            head 1 1 2 1 0 0
            window 1 1 1 1 0 64
            reserve 1 1 1
            unlock 1 1
            reserve 1 2 1
            show 1"
        ),
        expect![[r#"
            create v 1: r2 volume 1 +volume 1
            open alice 1000: r3 session 3 +session 3
            lock 1 3: r4 epoch 1 +volume 1
            reserve 1 1 3: r5 inode 1 +volume 1
            open bob 1000: r6 session 6 +session 6
            expire 3: r7 done +volume 1 -session 3
            head 1 1 1 1 0 0: r8 done +volume 1
            lock 1 6: r9 epoch 2 +volume 1
            head 1 1 2 1 0 0: epoch 1 of the volume has ended; 2 is current
            window 1 1 1 1 0 64: epoch 1 of the volume has ended; 2 is current
            reserve 1 1 1: epoch 1 of the volume has ended; 2 is current
            unlock 1 1: epoch 1 of the volume has ended; 2 is current
            reserve 1 2 1: r10 inode 4 +volume 1
            show 1: bob epoch 2 head Some(1) windows []
        "#]],
    );
}

#[test]
fn peers_keep_the_identity_that_they_were_given() {
    check(
        "node 5
        register 5
        register 5
        node 5
        register 5
        remove 5
        remove 5
        open alice 50
        open alice 3600001",
        expect![[r#"
            node 5: r2 node 10
            register 5: r3 done +peer 5@10
            register 5: r3 done
            node 5: r4 node 13 +peer 5@13
            register 5: r4 done
            remove 5: r5 done -peer 5
            remove 5: there is no such peer
            open alice 50: the session's time is not valid: it must be from 100 ms to one hour
            open alice 3600001: the session's time is not valid: it must be from 100 ms to one hour
        "#]],
    );
}
