//! The disk of the metadata fails or the process dies, at each point where it makes something
//! durable.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use torus_tests::{Cluster, ClusterOptions, Process, binary, free_port, run, tool, wait_until};

const BOUND: Duration = Duration::from_secs(60);
/// More syncs than a thread of a daemon makes until it is a member.
const POINTS_MAX: u32 = 40;

/// A daemon under strace, which does something to its syncs.
fn traced(fault: &str, data_dir: &str, address: &str, join: &str) -> Command {
    let mut command = Command::new(tool("strace"));
    // With -D the daemon is our child and strace is not.
    command.args([
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync,fdatasync",
        "-e",
        fault,
    ]);
    command.arg(binary("torusd")).args(["--size", "64MiB", "--data-dir", data_dir]);
    command.args(["--peer-address", address, "--join", join]);
    command
}

/// The volumes as the member at `address` itself has them.
fn volumes(address: &str) -> Result<Value, String> {
    let dump = run(&binary("torusctl"), ["-C", address, "--json", "metadata", "dump"], BOUND);
    let parsed: Result<Value, _> = serde_json::from_str(&dump.stdout);
    parsed.map(|dump| dump["volumes"].clone()).map_err(|_| dump.stderr)
}

#[test]
fn a_member_that_dies_at_any_sync_comes_back_with_the_snapshot_that_it_was_sent() {
    let mut cluster = Cluster::bare("256MiB");
    cluster.add_daemon();
    cluster.form(&ClusterOptions { daemons: 1, replication: 1, ..ClusterOptions::default() });
    for number in 0..20 {
        cluster.create_volume(&format!("volume-{number}"), "16MiB");
    }
    // A group that was recovered has nothing but a snapshot, so that is what newcomers are sent.
    cluster.stop(0);
    let dir = cluster.data_dir(0).to_str().expect("a path in UTF-8").to_owned();
    run(&binary("torusctl"), ["recover", "--yes", "--data-dir", &dir], BOUND).success();
    cluster.restart(0);
    let expected =
        wait_until("the recovered group answers", BOUND, || volumes(&cluster.address(0)));
    assert_eq!(expected.as_array().map(Vec::len), Some(20));

    let address = format!("127.0.0.1:{}", free_port());
    let join = cluster.address(0);
    let mut deaths = 0;
    for point in 1..=POINTS_MAX {
        let dir = cluster.folder().join(format!("joiner-{point}"));
        let dir = dir.to_str().expect("a path in UTF-8").to_owned();
        let log = cluster.folder().join(format!("joiner-{point}.log"));
        let fault = format!("inject=fsync,fdatasync:signal=SIGKILL:when={point}");
        let mut command = traced(&fault, &dir, &address, &join);
        let mut daemon = Process::start("joiner", &mut command, &log);
        let has_all = || volumes(&address).is_ok_and(|found| found == expected);
        let died = wait_until("it dies or is a member", BOUND, || match daemon.ended() {
            Some(_) => Ok(true),
            None if has_all() => Ok(false),
            None => Err(daemon.log()),
        });
        daemon.kill9();
        if !died {
            break;
        }
        deaths += 1;
        let mut command = Command::new(binary("torusd"));
        command.args(["--size", "64MiB", "--data-dir", &dir, "--peer-address", &address]);
        command.args(["--join", &join]);
        let mut daemon = Process::start("joiner", &mut command, &log);
        wait_until(&format!("after a death at sync {point} it has everything"), BOUND, || {
            assert!(daemon.ended().is_none(), "sync {point}: {}", daemon.log());
            if has_all() { Ok(()) } else { Err(daemon.log()) }
        });
        daemon.kill9();
    }
    println!("died at {deaths} syncs");
    assert!((3..POINTS_MAX).contains(&deaths), "{deaths} deaths");
}

#[test]
fn the_first_failed_sync_of_the_log_ends_the_daemon_with_a_clear_message() {
    let mut cluster = Cluster::bare("256MiB");
    cluster.add_daemon();
    cluster.form(&ClusterOptions { daemons: 1, replication: 1, ..ClusterOptions::default() });
    let address = format!("127.0.0.1:{}", free_port());
    let dir = cluster.folder().join("joiner");
    let log = cluster.folder().join("joiner.log");
    let dir = dir.to_str().expect("a path in UTF-8").to_owned();
    // Its threads come to their third one only when it follows the log.
    let fault = "inject=fdatasync:error=EIO:when=3+";
    let mut command = traced(fault, &dir, &address, &cluster.address(0));
    let mut daemon = Process::start("joiner", &mut command, &log);
    for number in 0..10 {
        cluster.create_volume(&format!("volume-{number}"), "16MiB");
    }
    assert_eq!(daemon.wait(BOUND), 1, "{}", daemon.log());
    let last = daemon.log().lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("error: ") && last.contains("Input/output error"), "{last}");
}
