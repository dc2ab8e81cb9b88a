//! The disk of the metadata: full, failing, hanging. And a leader that was paused.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, Process, binary, run, tool, wait_until};

use crate::refused::{FAILURE, assert_refused};

const BOUND: Duration = Duration::from_secs(90);

/// A small file system of its own; `None` where none can be made.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let path = at.to_str().expect("a path in UTF-8");
        let arguments = ["-t", "tmpfs", "-o", "size=160m", "torus-test", path];
        let outcome = run(&tool("mount"), arguments, BOUND);
        if outcome.code != 0 {
            println!("SKIPPED: no file system can be mounted here, so no disk is full: {outcome}");
            return None;
        }
        Some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = self.0.to_str().expect("a path in UTF-8");
        run(&tool("umount"), ["-l", path], BOUND);
    }
}

#[test]
fn a_full_disk_refuses_changes_keeps_what_there_is_and_recovers() {
    let mut cluster = Cluster::bare("16MiB");
    let Some(disk) = SmallDisk::mount(cluster.folder().join("torusd-1")) else { return };
    cluster.add_daemon();
    cluster.form(&ClusterOptions { daemons: 1, replication: 1, ..Default::default() });
    cluster.create_volume("before", "16MiB");

    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![1; 90 << 20]).unwrap();
    let mut early = 0;
    wait_until("changes are refused", BOUND, || {
        let outcome = cluster.ctl(&["volume", "create-block", &format!("early{early}"), "16MiB"]);
        if outcome.code == 0 {
            early += 1;
            return Err(outcome);
        }
        assert_refused(&outcome, FAILURE, "free some space");
        Ok(())
    });
    // Not even a byte more makes it worse.
    let rest = std::fs::write(disk.0.join("rest"), vec![1; 90 << 20]);
    assert!(rest.is_err(), "the disk is not full");
    let list = cluster.ctl(&["volume", "list"]).success().stdout;
    assert!(list.contains("before") && !list.contains(&format!("early{early}")), "{list}");
    let status = cluster.ctl(&["status"]).success().stdout;
    assert!(status.contains("is full, and it takes no change"), "{status}");

    std::fs::remove_file(filler).unwrap();
    std::fs::remove_file(disk.0.join("rest")).unwrap();
    wait_until("changes are taken again", BOUND, || {
        let outcome = cluster.ctl(&["volume", "create-block", "after", "16MiB"]);
        if outcome.code == 0 { Ok(()) } else { Err(outcome) }
    });
    cluster.kill9(0);
    cluster.restart(0);
    wait_until("all of it is there", BOUND, || {
        let list = cluster.ctl(&["volume", "list"]);
        let all = list.stdout.contains("before") && list.stdout.contains("after");
        if all { Ok(()) } else { Err(list) }
    });
}

/// Three members that vote.
fn three() -> Cluster {
    let cluster =
        Cluster::start(&ClusterOptions { replication: 1, size: "64MiB", ..Default::default() });
    wait_until("three voters", BOUND, || {
        let status = cluster.ctl(&["member", "status"]);
        if status.stdout.contains("3 voters, 2 needed, 3 up") { Ok(()) } else { Err(status) }
    });
    cluster
}

/// Has every sync of a daemon do something else from now on, until the daemon ends.
fn inject(cluster: &mut Cluster, index: usize, what: &str) -> Process {
    let pid = cluster.pid(index).to_string();
    let mut strace = Command::new(tool("strace"));
    let inject = format!("inject=fdatasync,fsync:{what}");
    strace.args(["-f", "-p", &pid, "-e", "trace=fdatasync,fsync", "-e", &inject, "-o"]);
    strace.arg(cluster.folder().join("inject.trace"));
    let process = Process::start("strace", &mut strace, &cluster.folder().join("strace.log"));
    wait_until("the daemon is traced", BOUND, || {
        let log = process.log();
        if log.contains("attached") { Ok(()) } else { Err(log) }
    });
    process
}

/// Waits until a volume is there that is being created.
#[track_caller]
fn wait_for_a_change(cluster: &Cluster) {
    wait_until("changes are taken", BOUND, || {
        let outcome = cluster.ctl(&["volume", "create-block", "disk", "16MiB"]);
        let done = outcome.code == 0 || outcome.stderr.contains("already");
        if done { Ok(()) } else { Err(outcome) }
    });
}

#[test]
fn the_first_sync_that_fails_ends_the_daemon() {
    let mut cluster = three();
    let leader = cluster.leader();
    let _strace = inject(&mut cluster, leader, "error=EIO");
    wait_for_a_change(&cluster);
    let (code, log) = cluster.ended(leader, BOUND);
    assert_eq!(code, 1, "{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("the metadata member cannot go on"), "{last}");
    assert!(last.contains("Input/output error"), "{last}");
    cluster.restart(leader);
    let list = cluster.ctl(&["volume", "list"]).success().stdout;
    assert!(list.contains("disk"), "{list}");
}

#[test]
fn a_leader_whose_disk_hangs_hands_over_and_then_ends() {
    let mut cluster = three();
    let leader = cluster.leader();
    let strace = inject(&mut cluster, leader, "delay_enter=600000000");
    // The others are a majority: changes are taken all the time.
    wait_for_a_change(&cluster);
    wait_until("another leads", BOUND, || {
        if cluster.leader() == leader { Err("the leader hangs") } else { Ok(()) }
    });
    // The process itself cannot end while the tracer holds one of its threads in the call.
    let log = wait_until("the daemon gives up", BOUND, || {
        let log = cluster.said(leader);
        if log.contains("error: the metadata member cannot go on") { Ok(log) } else { Err(log) }
    });
    assert!(log.contains("the disk of the Raft log is stuck"), "{log}");
    assert!(log.contains("a write to the log has not ended after"), "{log}");
    drop(strace);
}

#[test]
fn a_leader_that_was_paused_ends_no_session() {
    let mut cluster = three();
    cluster.create_volume("disk", "16MiB");
    let server = cluster.serve("disk");
    let lock = |cluster: &Cluster| {
        let info = cluster.ctl_json(&["volume", "info", "disk"]);
        (info["epoch"].clone(), info["in_use_by"].clone())
    };
    let before = lock(&cluster);
    let leader = cluster.leader();
    // Longer than the session's time, which is 5 s: the client speaks to others meanwhile.
    cluster.pause(leader);
    let stopwatch = torus_tests::Stopwatch::start();
    let mut number = 0;
    while stopwatch.elapsed() < Duration::from_secs(8) {
        number += 1;
        wait_until("a change is taken", BOUND, || {
            let name = format!("v{number}");
            let outcome = cluster.ctl(&["volume", "create-block", &name, "16MiB"]);
            let done = outcome.code == 0 || outcome.stderr.contains("already");
            if done { Ok(()) } else { Err(outcome) }
        });
    }
    cluster.resume(leader);
    // When it has the newest change, whatever it wanted to end has been decided.
    wait_until("it has caught up", BOUND, || {
        let status = cluster.ctl_json(&["member", "status"]);
        let address = cluster.address(leader);
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let own = members.iter().find(|it| it["address"] == *address).cloned().unwrap_or_default();
        let there = own["applied"].as_u64() >= status["committed"].as_u64();
        if own["state"] == "up" && there { Ok(()) } else { Err(status) }
    });
    assert_eq!(lock(&cluster), before);
    assert!(server.connect().is_ok());
    let version = run(&binary("torusctl"), ["version"], BOUND);
    assert_eq!(version.code, 0);
}
