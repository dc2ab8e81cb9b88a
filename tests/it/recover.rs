//! The majority of the members is lost for good, and one that is left begins a new group.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use torus_tests::{
    Cluster, ClusterOptions, History, Outcome, Process, Random, binary, run, wait_until,
};

use crate::refused::{FAILURE, USAGE, assert_refused};

const BOUND: Duration = Duration::from_secs(40);

#[track_caller]
fn recover(cluster: &Cluster, index: usize, more: &[&str]) -> Outcome {
    let dir = cluster.data_dir(index);
    let dir = dir.to_str().expect("a path in UTF-8");
    let arguments = ["recover", "--data-dir", dir].into_iter().chain(more.iter().copied());
    run(&binary("torusctl"), arguments, BOUND)
}

#[track_caller]
fn voters(cluster: &Cluster, wanted: usize) {
    wait_until(&format!("{wanted} members vote"), BOUND, || {
        let list = cluster.ctl_json(&["member", "list"]);
        let members = list["members"].as_array().unwrap();
        let voters = members.iter().filter(|member| member["role"] != "learner").count();
        if voters == wanted { Ok(()) } else { Err(list.to_string()) }
    });
}

fn copy(from: &Path, to: &Path) {
    let arguments = ["-a", from.to_str().unwrap(), to.to_str().unwrap()];
    run(Path::new("/bin/cp"), arguments, BOUND).success();
}

#[test]
fn one_of_three_members_begins_a_new_group_with_the_volumes_and_an_old_member_is_refused() {
    let mut cluster = Cluster::start(&ClusterOptions { size: "512MiB", ..Default::default() });
    voters(&cluster, 3);
    cluster.create_volume("disk", "64MiB");
    let mut random = Random::seeded(83);
    let mut history = History::new(4096);
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    history.flushed_writes(&mut client, &mut random, 100).unwrap();
    drop(client);
    server.stop();
    let before = cluster.ctl_json(&["metadata", "dump"]);
    assert_refused(&recover(&cluster, 0, &["--yes"]), FAILURE, "in use");

    // Two are lost; of one a copy turns up later.
    cluster.kill9_all();
    let old = cluster.folder().join("old");
    copy(&cluster.data_dir(2), &old);
    for index in [1, 2] {
        fs::remove_dir_all(cluster.data_dir(index)).unwrap();
    }
    assert_refused_and_shown(&recover(&cluster, 0, &[]));
    let said = recover(&cluster, 0, &["--yes"]).success();
    for part in ["last change on this disk", "RECOVERING MAKES THIS DAEMON", "given up"] {
        assert!(said.stderr.contains(part), "nothing of {part:?}: {said}");
    }
    assert!(said.stdout.contains("generation 2"), "{said}");

    cluster.restart(0);
    let after = wait_until("the group of one answers", BOUND, || {
        let dump = cluster.ctl(&["--json", "metadata", "dump"]);
        serde_json::from_str::<serde_json::Value>(&dump.stdout).map_err(|_| dump)
    });
    assert_eq!((&after["cluster"], &after["generation"]), (&before["cluster"], &2.into()));

    // The member of old, where the group knew it, looks for others and finds the new group.
    let log = cluster.folder().join("old.log");
    let mut stale = Process::start("stale", &mut old_daemon(&cluster, &old), &log);
    assert_eq!(stale.wait(BOUND), 1, "{}", stale.log());
    let last = stale.log().lines().last().unwrap_or_default().to_owned();
    assert!(last.contains("generation 1") && last.contains("generation 2"), "{last}");
    assert!(last.contains("--join"), "{last}");

    // Those that come are new members and new peers.
    cluster.restart(1);
    cluster.restart(2);
    voters(&cluster, 3);
    cluster.create_volume("more", "64MiB");
    let members = cluster.ctl_json(&["member", "list"]);
    let ids = members["members"].as_array().unwrap().iter().map(|member| member["id"].as_u64());
    assert!(ids.flatten().all(|id| id > 3), "an ID is used again: {members}");
    for peer in cluster.peers().iter().filter(|peer| peer["state"] != "up") {
        let id = peer["id"].as_str().or(peer["uuid"].as_str()).expect("a peer's UUID");
        cluster.ctl(&["peer", "remove", "--force", id]).success();
    }
    cluster.ctl(&["peer", "add", "--all-peers"]).success();
    // Three copies on three peers: each has all.
    wait_until("the newcomers hold all blocks", BOUND, || {
        let up = cluster.peers().into_iter().filter(|peer| peer["state"] == "up");
        let used: Vec<_> = up.filter_map(|peer| peer["used"].as_u64()).collect();
        let all = used.len() == 3 && used.iter().all(|bytes| *bytes == used[0]);
        if all && used[0] > 0 { Ok(()) } else { Err(format!("{used:?}")) }
    });
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    let prefix = history.check(&mut client).unwrap();
    assert_eq!(prefix.last, prefix.issued);
    history.flushed_writes(&mut client, &mut random, 100).unwrap();
    drop(client);
    server.stop();

    // The one that was recovered is not needed any more.
    cluster.kill9(0);
    let server =
        wait_until("the volume is served without the first", BOUND, || cluster.try_serve("disk"));
    let prefix = history.check(&mut server.connect().unwrap()).unwrap();
    assert_eq!(prefix.last, prefix.issued);
}

/// The daemon at the address of the third, on another data directory.
fn old_daemon(cluster: &Cluster, dir: &Path) -> std::process::Command {
    let mut command = std::process::Command::new(binary("torusd"));
    command.arg("--data-dir").arg(dir);
    command.args(["--size", "512MiB", "--peer-address", &cluster.address(2)]);
    command
}

/// Without a word of the operator nothing happens, but what would is shown.
#[track_caller]
fn assert_refused_and_shown(outcome: &Outcome) {
    assert_eq!(outcome.code, USAGE, "{outcome}");
    assert!(outcome.stderr.contains("given up"), "{outcome}");
    assert!(outcome.stderr.contains("--yes"), "{outcome}");
}

#[test]
fn only_the_data_directory_of_a_member_is_recovered() {
    let mut cluster = Cluster::bare("256MiB");
    cluster.add_daemon();
    // It waits for a cluster.
    cluster.stop(0);
    let part = "metadata";
    assert_refused(&recover(&cluster, 0, &["--yes"]), FAILURE, part);
    let nowhere = ["recover", "--yes", "--data-dir", "/nowhere"];
    assert_refused(&run(&binary("torusctl"), nowhere, BOUND), FAILURE, "no data directory");

    cluster.restart(0);
    cluster.form(&ClusterOptions { daemons: 1, replication: 1, ..Default::default() });
    cluster.stop(0);
    // A log of which a part is missing is not taken for a shorter one.
    let log = cluster.data_dir(0).join("metadata/log");
    let current = log.join("CURRENT");
    let kept = fs::read(&current).unwrap();
    fs::write(&current, b"MANIFEST-999999\n").unwrap();
    let damaged = recover(&cluster, 0, &["--yes"]);
    assert_eq!(damaged.code, FAILURE, "{damaged}");
    assert!(damaged.stderr.contains("cannot open the log"), "{damaged}");
    fs::write(&current, kept).unwrap();
    recover(&cluster, 0, &["--yes"]).success();
    cluster.restart(0);
    cluster.create_volume("disk", "16MiB");
}

#[test]
fn metadata_whose_blocks_are_lost_is_recovered_for_a_new_peer() {
    let mut cluster =
        Cluster::start(&ClusterOptions { daemons: 1, replication: 1, ..Default::default() });
    cluster.create_volume("disk", "16MiB");
    let former = cluster.peers()[0]["uuid"].clone();
    cluster.stop(0);
    let dir = cluster.data_dir(0);
    fs::remove_dir_all(dir.join("block")).unwrap();
    let refused = recover(&cluster, 0, &["--yes"]);
    assert_refused(&refused, FAILURE, "'peer' and 'cluster'");
    for name in ["peer", "cluster"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    recover(&cluster, 0, &["--yes"]).success();
    let folders = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = folders.map(|name| name.into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains("ing-")), "{names:?}");
    cluster.restart(0);
    wait_until("it is a new peer of the cluster that has the volume", BOUND, || {
        let peers = cluster.peers();
        let is_new = |peer: &Value| peer["state"] == "up" && peer["uuid"] != former;
        if peers.iter().any(is_new) { Ok(()) } else { Err(format!("{peers:?}")) }
    });
    assert_eq!(cluster.ctl_json(&["volume", "list"])["volumes"][0]["name"], "disk");
}
