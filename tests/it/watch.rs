//! `torusctl watch`: no change is missed and none comes twice while the members die one by one.

use std::time::Duration;

use serde_json::Value;
use torus_tests::{Cluster, ClusterOptions, Process, wait_until};

const BOUND: Duration = Duration::from_secs(60);

/// What a watch has printed so far.
fn printed(watch: &Process) -> Vec<Value> {
    let log = watch.log();
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The volumes that a watch has seen come, in this order.
fn created(watch: &Process) -> Vec<(u64, String)> {
    let name = |item: &Value| {
        let is_new = item["action"] == "new" && item["kind"] == "volume";
        let name = || item["volume"]["name"].as_str().map(str::to_owned);
        is_new.then(|| Some((item["revision"].as_u64()?, name()?))).flatten()
    };
    printed(watch).iter().filter_map(name).collect()
}

#[test]
fn a_watch_misses_nothing_while_members_die() {
    let mut cluster = Cluster::start(&ClusterOptions { size: "64MiB", ..Default::default() });
    cluster.create_volume("before", "16MiB");
    let mut watch = cluster.ctl_begin(&["--json", "watch", "volumes", "members"]);
    wait_until("the lists", BOUND, || {
        let items = printed(&watch);
        let is = |kind: &str| items.iter().any(|it| it["action"] == "is" && it["kind"] == kind);
        if is("volume") && is("members") { Ok(()) } else { Err(watch.log()) }
    });
    let mut expected = Vec::new();
    for (round, index) in [0, 1, 2, 0].into_iter().enumerate() {
        cluster.kill9(index);
        for part in ["a", "b", "c"] {
            let name = format!("v{round}{part}");
            wait_until("a volume is created", BOUND, || {
                let outcome = cluster.ctl(&["volume", "create-block", &name, "16MiB"]);
                // A repetition may find that the first did it.
                let done = outcome.code == 0 || outcome.stderr.contains("already");
                if done { Ok(()) } else { Err(outcome) }
            });
            expected.push(name);
        }
        cluster.restart(index);
    }
    wait_until("all volumes were seen", BOUND, || {
        let seen = created(&watch);
        if seen.len() >= expected.len() { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let seen = created(&watch);
    assert_eq!(seen.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>(), expected);
    assert!(seen.is_sorted_by(|(a, _), (b, _)| a < b), "{seen:?}");
    let interrupted = printed(&watch).iter().filter(|item| item["interrupted"].is_string()).count();
    assert!(interrupted > 0, "no fault was met:\n{}", watch.log());

    // Another goes on in the middle.
    let (from, _) = seen[5];
    let from = from.to_string();
    let mut second = cluster.ctl_begin(&["--json", "watch", "volumes", "--from", &from]);
    let names = |watch: &Process| -> Vec<_> {
        let of_volume = |item: Value| Some(item["volume"]["name"].as_str()?.to_owned());
        printed(watch).into_iter().filter_map(of_volume).collect()
    };
    wait_until("the second half", BOUND, || {
        let names = names(&second);
        if names.len() == expected.len() - 6 { Ok(()) } else { Err(format!("{names:?}")) }
    });
    assert_eq!(names(&second), expected[6..]);
    for watch in [&mut watch, &mut second] {
        watch.interrupt();
        assert_eq!(watch.wait(BOUND), 0);
    }
}

#[test]
fn a_watch_shows_who_opens_a_volume_and_who_closes_it() {
    let mut cluster =
        Cluster::start(&ClusterOptions { daemons: 1, replication: 1, ..Default::default() });
    cluster.create_volume("disk", "16MiB");
    let mut watch = cluster.ctl_begin(&["watch", "locks", "heads", "volumes"]);
    wait_until("the list", BOUND, || {
        let log = watch.log();
        if log.contains("is       volume   disk") { Ok(()) } else { Err(log) }
    });
    let server = cluster.serve("disk");
    let pid = server.pid();
    wait_until("the lock", BOUND, || {
        let log = watch.log();
        let owner = format!("process {pid}");
        if log.contains("changed  lock") && log.contains(&owner) { Ok(()) } else { Err(log) }
    });
    server.stop();
    wait_until("the lock is free", BOUND, || {
        let log = watch.log();
        if log.contains("gone     lock     disk") { Ok(()) } else { Err(log) }
    });
    watch.interrupt();
    assert_eq!(watch.wait(BOUND), 0);
}
