//! The screen of `torusctl status` in good and bad times.

use super::*;
use crate::ctl::member::tests::example;
use crate::ctl::peer::tests::{global, peer};
use crate::ctl::peer::{survey, tests as peers};
use crate::ctl::ring::without_peers;
use crate::ctl::volume::tests::volume;
use expect_test::{Expect, expect};

/// Peers 1 to 3 are registered, those of `members` in the ring, and those of `up` answer.
fn store(members: &[u16], up: &[u16]) -> Store {
    let registered = [peer(1), peer(2), peer(3)];
    let ring = peers::ring(members);
    let peers = survey(&global(), &ring, &registered, &peers::up(up));
    let volumes = vec![volume(1, "myVolume", None), volume(2, "disk", Some("host-1, process 77"))];
    Store { global: global(), ring, peers, volumes }
}

#[track_caller]
fn check(group: &Group, known: Known, expected: Expect) {
    expected.assert_eq(&report(group, &known).text);
}

#[test]
fn all_is_well() {
    let store = store(&[1, 2, 3], &[1, 2, 3]);
    check(
        &example(&[true, true, true]),
        Known::Now(store),
        expect![[r#"
            Cluster   00000000-0000-0000-0000-000000000007, generation 1, feature level 2
            Leader    127.0.0.1:40000
            Members   3 of 3 up, term 2
            Quorum    2 voters, 2 needed, 2 up: none may fail, heard 40 ms ago
            Log       committed 120, applied 120, snapshot 1 min old
            Sessions  4
            Peers     3 of 3 up, 15.0 GiB of 60.0 GiB used (25.00%)
            Ring      version 2, ketama, replication 2, 3 peers, balanced
            Volumes   2, 1 in use, 20.0 GiB in all

            ID  ADDRESS          ROLE     STATE  LAG  APPLIED  SNAPSHOT
             1  127.0.0.1:40000  leader   up       0      120     1 min
             2  127.0.0.1:40001  voter    up       1      120     1 min
             3  127.0.0.1:40002  learner  up       ?      120     1 min
        "#]],
    );
}

#[test]
fn each_thing_that_is_wrong_has_a_line() {
    let store = store(&[1, 2], &[1, 3]);
    check(
        &example(&[true, true, false]),
        Known::Now(store),
        expect![[r#"
            Cluster   00000000-0000-0000-0000-000000000007, generation 1, feature level 2
            Leader    127.0.0.1:40000
            Members   2 of 3 up, term 2
            Quorum    2 voters, 2 needed, 2 up: none may fail, heard 40 ms ago
            Log       committed 120, applied 120, snapshot 1 min old
            Sessions  4
            Peers     2 of 3 up, 5.0 GiB of 20.0 GiB used (25.00%)
            Ring      version 2, ketama, replication 2, 2 peers, not balanced yet
            Volumes   2, 1 in use, 20.0 GiB in all

            ID  ADDRESS          ROLE     STATE  LAG  APPLIED  SNAPSHOT
             1  127.0.0.1:40000  leader   up       0      120     1 min
             2  127.0.0.1:40001  voter    up       1      120     1 min
             3  127.0.0.1:40002  learner  down     ?        ?         ?

            To do:
            - member 3 at 127.0.0.1:40002 does not answer: start it, or 'torusctl member remove 3'
            - peer 127.0.0.1:40002 is in the ring and is down: start it, or 'torusctl peer remove 00000000-0000-0000-0000-000000000002 --force' has its blocks copied elsewhere
            - peer 127.0.0.1:40003 is not in the ring and still holds 5.0 GiB of blocks: let it run until they have moved, or 'torusctl peer add 127.0.0.1:40003'
        "#]],
    );
}

#[test]
fn an_empty_ring_stores_nothing() {
    let mut store = store(&[1], &[1, 2, 3]);
    store.ring = without_peers(&store.ring, &[peer(1).id]);
    expect!["the ring has no peers, so nothing can be stored: 'torusctl peer add --all-peers'"]
        .assert_eq(&advice::on_store(&store)[0]);
}

#[test]
fn a_ring_with_too_few_peers_has_too_few_copies() {
    let mut store = store(&[1], &[1]);
    store.volumes.clear();
    expect![[r#"
        the ring has 1 peer for replication 2: add peers, or 'torusctl ring set-replication 1'
        peer 127.0.0.1:40002 is down: start it, or 'torusctl peer forget 00000000-0000-0000-0000-000000000002'
        peer 127.0.0.1:40003 is down: start it, or 'torusctl peer forget 00000000-0000-0000-0000-000000000003'"#]].assert_eq(&advice::on_store(&store).join("\n"));
}

#[test]
fn without_a_leader_the_rest_is_unknown() {
    let failure = Failure::failed("the metadata service does not answer");
    check(
        &example(&[false, true, false]),
        Known::Nothing(failure),
        expect![[r#"
            Cluster   00000000-0000-0000-0000-000000000007, generation 1, feature level 2
            Leader    none
            Members   1 of 3 up, term 2
            Quorum    2 voters, 2 needed, 1 up: no majority
            Log       committed 120, applied 120, snapshot none
            Sessions  4
            Peers     unknown: the metadata service does not answer

            ID  ADDRESS          ROLE     STATE  LAG  APPLIED  SNAPSHOT
             1  127.0.0.1:40000  voter    down     0        ?         ?
             2  127.0.0.1:40001  voter    up       1      120     1 min
             3  127.0.0.1:40002  learner  down     ?        ?         ?

            To do:
            - no member leads, so nothing can be changed: start members until 2 of 2 voters are up; if they are lost for good, see 'torusctl recover'
            - member 1 at 127.0.0.1:40000 does not answer: start it
            - member 3 at 127.0.0.1:40002 does not answer: start it
        "#]],
    );
}

#[test]
fn programs_get_the_same() {
    let store = store(&[1, 2, 3], &[1, 2, 3]);
    let report = report(&example(&[true, true, true]), &Known::Now(store));
    expect![[r#"{"applied":120,"block_size":524288,"block_spec":"crc,base","cluster":"00000000-0000-0000-0000-000000000007","committed":120,"feature_level":2,"generation":1,"is_old":false,"joint":false,"leader":"127.0.0.1:40000","members":[{"address":"127.0.0.1:40000","applied":120,"feature_level":2,"id":1,"is_full":false,"lag":0,"role":"leader","snapshot_age_ms":65000,"state":"up","unsaved":20},{"address":"127.0.0.1:40001","applied":120,"feature_level":2,"id":2,"is_full":false,"lag":1,"role":"voter","snapshot_age_ms":65000,"state":"up","unsaved":20},{"address":"127.0.0.1:40002","applied":120,"feature_level":2,"id":3,"is_full":false,"lag":null,"role":"learner","snapshot_age_ms":65000,"state":"up","unsaved":20}],"peers":{"count":3,"size":64424509440,"up":3,"used":16106127360},"problems":[],"quorum_acked_ms":40,"revision":9,"ring":{"balanced":true,"blocks_to_move":0,"kind":"ketama","peers":3,"replication":2,"version":2},"sessions":4,"term":2,"volumes":{"count":2,"in_use":1,"size":21474836480},"voters_max":5}"#]].assert_eq(&report.json.to_string());
}

#[test]
fn stores_that_fill_up_are_told() {
    let mut store = store(&[1, 2, 3], &[1, 2, 3]);
    let (size, name) = (20_u64 << 30, "left.importing-0a1b2c3d");
    let shares = [79, 80, 90, 96].map(|share| {
        store.peers.peers[0].used = Some(size / 100 * share);
        advice::on_store(&store).join("\n")
    });
    expect![[r#"

        ---

        ---
        the store of peer 127.0.0.1:40001 is 90% full: add peers, start it with a larger --size, or delete volumes and snapshots
        ---
        the store of peer 127.0.0.1:40001 is full (96%), and writes of volumes that need it are refused for want of space: add peers, start it with a larger --size, or delete volumes and snapshots"#]].assert_eq(&shares.join("\n---\n"));
    store.peers.peers[0].used = Some(0);
    store.volumes = vec![volume(1, name, None), volume(2, name, Some("torusctl on host-1"))];
    expect!["volume left.importing-0a1b2c3d was left by an import that was killed, or is about to get its name: 'torusctl volume delete left.importing-0a1b2c3d' if no import is running"].assert_eq(&advice::on_store(&store).join("\n"));
}

#[test]
fn without_a_majority_there_is_what_was_known_last() {
    check(
        &example(&[false, true, false]),
        Known::Once(store(&[1, 2, 3], &[2])),
        expect![[r#"
            Cluster   00000000-0000-0000-0000-000000000007, generation 1, feature level 2
            Leader    none
            Members   1 of 3 up, term 2
            Quorum    2 voters, 2 needed, 1 up: no majority
            Log       committed 120, applied 120, snapshot none
            Sessions  4
            (as one member knew it last; no majority confirms it)
            Peers     1 of 3 up, 5.0 GiB of 20.0 GiB used (25.00%)
            Ring      version 2, ketama, replication 2, 3 peers, not balanced yet
            Volumes   2, 1 in use, 20.0 GiB in all

            ID  ADDRESS          ROLE     STATE  LAG  APPLIED  SNAPSHOT
             1  127.0.0.1:40000  voter    down     0        ?         ?
             2  127.0.0.1:40001  voter    up       1      120     1 min
             3  127.0.0.1:40002  learner  down     ?        ?         ?

            To do:
            - no member leads, so nothing can be changed: start members until 2 of 2 voters are up; if they are lost for good, see 'torusctl recover'
            - member 1 at 127.0.0.1:40000 does not answer: start it
            - member 3 at 127.0.0.1:40002 does not answer: start it
        "#]],
    );
}

#[test]
fn each_thing_that_is_wrong_with_the_group_has_a_line() {
    let mut group = example(&[true, true, true]);
    assert_eq!(on_group(&group), Vec::<String>::new());
    group.joint = true;
    group.quorum_acked_ms = Some(7500);
    group.members[0].is_full = true;
    group.members[1].unsaved = Some(250_000);
    group.members[1].lag = Some(5000);
    group.members[1].feature_level = Some(1);
    group.members[2].state = "other cluster";
    let mut lines = on_group(&group);
    for state in ["other member", "no member"] {
        group.members[2].state = state;
        lines.extend(on_group(&group).into_iter().filter(|line| line.contains("member 3")));
    }
    expect![[r#"
        the leader has heard of no majority for 7 s: look at its network, and at the other members
        a change of the voters has begun and not ended: the leader ends it by itself; if it stays so, repeat the command that began it
        at the address of member 3, 127.0.0.1:40002, a daemon of another cluster listens: start the member's own there, or 'torusctl member remove 3'
        the disk of member 1 at 127.0.0.1:40000 is full, and it takes no change of the metadata: free some space there
        member 2 at 127.0.0.1:40001 has written no snapshot for 250000 log entries: look at its disk and its log
        member 2 at 127.0.0.1:40001 knows feature level 1, others 2: upgrade it, as until then what is new is refused
        member 2 at 127.0.0.1:40001 is 5000 log entries behind: look at its disk and its network
        at the address of member 3, 127.0.0.1:40002, another member listens, so this one is gone: two daemons cannot share an address, or 'torusctl member remove 3'
        the daemon at the address of member 3, 127.0.0.1:40002, has no metadata: start it with its data directory, or with --join as a new member, or 'torusctl member remove 3'"#]].assert_eq(&lines.join("\n"));
}
