//! The metadata group by `torusctl`: who votes, what is said when something is wrong, and what those
//! can do who are in it no more.

use std::time::Duration;

use serde_json::Value;
use torus_tests::{Cluster, ClusterOptions, binary, run, wait_until};

use crate::refused::{FAILURE, USAGE, assert_refused};

const BOUND: Duration = Duration::from_secs(40);

fn small(daemons: usize) -> ClusterOptions {
    ClusterOptions { daemons, replication: 1, size: "64MiB", ..Default::default() }
}

fn members(cluster: &Cluster, role: &str) -> Vec<Value> {
    let status = cluster.ctl_json(&["member", "status"]);
    let members = status["members"].as_array().expect("members").clone();
    members.into_iter().filter(|member| member["role"] == role).collect()
}

/// Waits until so many vote, the leader among them.
#[track_caller]
fn wait_for_voters(cluster: &Cluster, count: usize) {
    wait_until(&format!("{count} voters"), BOUND, || {
        let found = members(cluster, "voter").len() + members(cluster, "leader").len();
        if found == count { Ok(()) } else { Err(cluster.ctl(&["member", "status"])) }
    });
}

/// Waits until `torusctl status` names a problem with all of these words in it.
#[track_caller]
fn wait_for_advice(cluster: &Cluster, words: &[&str]) {
    wait_until(&format!("advice on {words:?}"), BOUND, || {
        let outcome = cluster.ctl(&["--json", "status"]);
        let status: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let says = |line: &Value| {
            words.iter().all(|word| line.as_str().is_some_and(|line| line.contains(word)))
        };
        if problems.iter().any(says) { Ok(()) } else { Err(outcome) }
    });
}

#[test]
fn votes_are_counted_given_and_taken() {
    let mut options = small(5);
    options.init = &["--voters", "3"];
    let cluster = Cluster::start(&options);
    wait_for_voters(&cluster, 3);
    assert_refused(&cluster.ctl(&["member", "voters", "4"]), USAGE, "1, 3, 5");
    let learner_id = members(&cluster, "learner")[0]["id"].clone();
    let learner = learner_id.to_string();
    let voter = members(&cluster, "voter")[0]["id"].to_string();
    assert_refused(&cluster.ctl(&["member", "promote", &learner]), FAILURE, "--instead-of");
    assert_refused(&cluster.ctl(&["member", "promote", "9999"]), FAILURE, "9999");
    cluster.ctl(&["member", "promote", &learner, "--instead-of", &voter]).success();
    // Said again, it is done already.
    cluster.ctl(&["member", "promote", &learner]).success();
    let voters = members(&cluster, "voter");
    assert!(voters.iter().any(|it| it["id"] == learner_id), "{voters:?}");
    cluster.ctl(&["member", "voters", "5"]).success();
    wait_for_voters(&cluster, 5);
    assert_eq!(cluster.ctl_json(&["status"])["problems"], serde_json::json!([]));
}

#[test]
fn without_a_majority_one_daemon_still_says_what_it_knows() {
    let mut cluster = Cluster::start(&small(3));
    wait_for_voters(&cluster, 3);
    cluster.create_volume("disk", "16MiB");
    // The one that stays has heard of it.
    wait_until("the last member has it", BOUND, || {
        let list = alone(&cluster, 2, &["--stale", "volume", "list"]);
        if list.stdout.contains("disk") { Ok(()) } else { Err(list) }
    });
    cluster.kill9(0);
    cluster.kill9(1);
    let status = alone(&cluster, 2, &["status"]).success().stdout;
    for part in [
        "no majority",
        "no member leads, so nothing can be changed: start members until 2 of 3 voters are up",
        &format!("member 1 at {} does not answer: start it", cluster.address(0)),
        "no majority confirms it",
        "Volumes   1, 0 in use",
    ] {
        assert!(status.contains(part), "{part:?} is not in\n{status}");
    }
    assert!(alone(&cluster, 2, &["--stale", "volume", "list"]).success().stdout.contains("disk"));
    assert_refused(&alone(&cluster, 2, &["volume", "list"]), FAILURE, "torusctl status");
    let change = alone(&cluster, 2, &["--stale", "volume", "create-block", "new", "16MiB"]);
    assert_refused(&change, USAGE, "--stale");
    cluster.restart_all();
    cluster.create_volume("after", "16MiB");
}

/// Runs `torusctl` with the address of one daemon.
fn alone(cluster: &Cluster, index: usize, arguments: &[&str]) -> torus_tests::Outcome {
    let address = cluster.address(index);
    let all = ["-C", &address].into_iter().chain(arguments.iter().copied());
    run(&binary("torusctl"), all, BOUND)
}

#[test]
fn a_removed_daemon_and_a_wiped_one_harm_nobody() {
    let mut cluster = Cluster::start(&small(4));
    wait_for_voters(&cluster, 3);
    cluster.create_volume("disk", "16MiB");
    let term = cluster.ctl_json(&["member", "status"])["term"].clone();
    // One that is removed goes on running, and asks for votes.
    let leader = cluster.leader();
    let removed = (0..3).find(|index| *index != leader).expect("another");
    cluster.ctl(&["member", "remove", &cluster.address(removed)]).success();
    wait_for_voters(&cluster, 3);

    // Another loses its folder, and comes back at its address: as a new member.
    let wiped = (1..4).find(|index| ![leader, removed].contains(index)).expect("another");
    let address = cluster.address(wiped);
    let id_at = |cluster: &Cluster| {
        let list = cluster.ctl_json(&["member", "list"]);
        let members = list["members"].as_array().expect("members").clone();
        members
            .into_iter()
            .filter(|it| it["address"] == *address)
            .map(|it| it["id"].clone())
            .collect()
    };
    let before: Vec<Value> = id_at(&cluster);
    cluster.kill9(wiped);
    std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    cluster.restart(wiped);
    wait_until("a new member at the old address", BOUND, || {
        let now: Vec<Value> = id_at(&cluster);
        if now.len() == 1 && now != before { Ok(()) } else { Err(format!("{before:?} {now:?}")) }
    });
    wait_for_voters(&cluster, 3);
    cluster.create_volume("after", "16MiB");
    let status = cluster.ctl_json(&["member", "status"]);
    assert_eq!(status["term"], term, "somebody campaigned: {status}");
    let names = cluster.ctl(&["volume", "list"]).success().stdout;
    assert!(names.contains("disk") && names.contains("after"), "{names}");
}

#[test]
fn a_daemon_of_another_cluster_at_a_members_address_is_named() {
    let mut cluster = Cluster::start(&small(3));
    wait_for_voters(&cluster, 3);
    let address = cluster.address(2);
    cluster.kill9(2);
    wait_for_advice(&cluster, &["does not answer", &address]);
    // Its folder is put away, and a cluster of its own begun at its address.
    std::fs::rename(cluster.data_dir(2), cluster.folder().join("away")).unwrap();
    let mut stranger = cluster.daemon_command(2);
    let log = cluster.folder().join("stranger.log");
    let mut stranger = torus_tests::Process::start("stranger", &mut stranger, &log);
    wait_for_advice(&cluster, &["no metadata", &address]);
    wait_until("it begins a cluster", BOUND, || {
        let init = alone(&cluster, 2, &["init"]);
        if init.code == 0 { Ok(()) } else { Err(init) }
    });
    wait_for_advice(&cluster, &["another cluster", &address]);
    let peers = cluster.peers();
    let peer = peers.iter().find(|peer| peer["address"] == *address).expect("the peer");
    assert_eq!(peer["state"], "other cluster", "{peer}");
    // Neither has taken anything from the other.
    cluster.create_volume("disk", "16MiB");
    assert!(!alone(&cluster, 2, &["volume", "list"]).success().stdout.contains("disk"));
    stranger.kill9();
    std::fs::remove_dir_all(cluster.data_dir(2)).unwrap();
    std::fs::rename(cluster.folder().join("away"), cluster.data_dir(2)).unwrap();
    cluster.restart(2);
    wait_until("all is well", BOUND, || {
        let status = cluster.ctl(&["member", "status"]);
        if status.stdout.contains("To do") { Err(status) } else { Ok(()) }
    });
}
