//! Bad input gets one clear line and an exit code, and changes nothing.

use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, Outcome, Process, binary, run, tool};

use crate::refused::{FAILURE, USAGE, assert_refused};

const BOUND: Duration = Duration::from_secs(30);

#[test]
fn volumes_with_bad_names_or_sizes_are_not_created() {
    let cluster =
        Cluster::start(&ClusterOptions { daemons: 1, replication: 1, ..Default::default() });
    cluster.create_volume("taken", "16MiB");
    let long = "x".repeat(300);
    let cases = [
        ("a/b", "16MiB", USAGE, "a/b"),
        ("", "16MiB", USAGE, "empty"),
        (&long, "16MiB", USAGE, "300"),
        ("taken", "16MiB", FAILURE, "taken"),
        ("new", "0", USAGE, "0"),
        ("new", "1EiB", FAILURE, "EiB"),
        ("new", "10XB", USAGE, "10XB"),
    ];
    let before = cluster.ctl_json(&["volume", "list"]);
    for (name, size, code, part) in cases {
        let outcome = cluster.ctl(&["volume", "create-block", name, size]);
        assert_refused(&outcome, code, part);
        assert_eq!(cluster.ctl_json(&["volume", "list"]), before, "after {name:?} {size}");
    }
}

#[test]
fn what_does_not_exist_is_neither_deleted_nor_shown_nor_served() {
    let mut cluster =
        Cluster::start(&ClusterOptions { daemons: 1, replication: 1, ..Default::default() });
    cluster.create_volume("there", "16MiB");
    for arguments in [["volume", "info", "nowhere"], ["volume", "delete", "nowhere"]] {
        assert_refused(&cluster.ctl(&arguments), FAILURE, "nowhere");
    }
    let refused = cluster.try_serve("nowhere").expect_err("there is no such volume");
    assert_refused(&refused, FAILURE, "nowhere");

    let server = cluster.serve("there");
    let uri = server.uri().replace("there", "nowhere");
    let info = run(&tool("nbdinfo"), [&uri], BOUND);
    assert_ne!(info.code, 0, "{info}");
    let info = run(&tool("nbdinfo"), ["--size", &server.uri()], BOUND);
    assert_eq!(info.success().stdout.trim(), (16 << 20).to_string());
}

#[test]
fn a_cluster_is_not_initialised_with_bad_values_or_twice() {
    let mut cluster = Cluster::bare("64MiB");
    cluster.add_daemon();
    let cases = [
        ("--block-size", "500KiB", USAGE, "power of two"),
        ("--block-size", "10XB", USAGE, "10XB"),
        ("--block-spec", "parity", USAGE, "parity"),
        ("--replication", "0", USAGE, "0"),
    ];
    for (option, value, code, part) in cases {
        assert_refused(&cluster.ctl(&["init", option, value]), code, part);
    }
    cluster.ctl(&["init"]).success();
    let before = cluster.ctl_json(&["status"])["cluster"].clone();
    assert_refused(&cluster.ctl(&["init"]), FAILURE, "already");
    assert_eq!(cluster.ctl_json(&["status"])["cluster"], before);
}

#[test]
fn a_command_that_reaches_nobody_says_whom_it_tried() {
    let outcome = run(&binary("torusctl"), ["-C", "127.0.0.1:1", "status"], BOUND);
    assert_refused(&outcome, FAILURE, "127.0.0.1:1");
}

/// Runs `torusd` as daemon `index` with arguments of its own, to its end.
#[track_caller]
fn daemon(cluster: &Cluster, index: usize, size: &str, address: &str) -> Outcome {
    let data_dir = cluster.data_dir(index);
    let data_dir = data_dir.to_str().expect("a path in UTF-8");
    let arguments = ["--data-dir", data_dir, "--size", size, "--peer-address", address];
    let mut outcome = run(&binary("torusd"), arguments, BOUND);
    // A daemon logs to standard error; the error that ended it is its last line.
    outcome.stderr = outcome.stderr.lines().last().unwrap_or_default().to_owned();
    outcome
}

#[test]
fn a_daemon_refuses_a_folder_or_a_port_in_use() {
    let mut cluster =
        Cluster::start(&ClusterOptions { daemons: 1, replication: 1, ..Default::default() });
    let elsewhere = "127.0.0.1:1";
    assert_refused(&daemon(&cluster, 0, "2GiB", elsewhere), FAILURE, "in use");
    let address = cluster.address(0);
    assert_refused(&daemon(&cluster, 7, "64MiB", &address), FAILURE, &address);

    cluster.create_volume("disk", "64MiB");
    let server = cluster.serve("disk");
    let listen = server.uri().replace("nbd://", "").replace("/disk", "");
    let mut second = cluster.torusblk(&["nbdserve", "--listen", &listen]);
    assert_one_line_at_the_end(&mut second, &listen);
    server.connect().expect("the first server goes on");
}

#[track_caller]
fn assert_one_line_at_the_end(process: &mut Process, part: &str) {
    let code = process.wait(BOUND);
    let log = process.log();
    let stderr = log.lines().last().unwrap_or_default().to_owned();
    assert_refused(&Outcome { code, stdout: String::new(), stderr }, FAILURE, part);
}

#[test]
fn a_store_does_not_become_smaller_than_what_it_holds() {
    let mut cluster =
        Cluster::start(&ClusterOptions { daemons: 1, replication: 1, ..Default::default() });
    cluster.create_volume("disk", "256MiB");
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    for mebibyte in 0..128 {
        client.write(mebibyte << 20, &[9; 1 << 20]).unwrap();
    }
    client.flush().unwrap();
    drop(client);
    server.stop();
    cluster.stop(0);

    let address = cluster.address(0);
    assert_refused(&daemon(&cluster, 0, "64MiB", &address), FAILURE, "64");
    cluster.restart(0);
    let server = cluster.serve("disk");
    assert_eq!(server.connect().unwrap().read(127 << 20, 4096).unwrap(), [9; 4096]);
}

#[test]
fn a_foreign_or_unusable_data_folder_is_left_alone() {
    let options =
        ClusterOptions { daemons: 1, replication: 1, size: "64MiB", ..Default::default() };
    let mut cluster = Cluster::start(&options);
    cluster.stop(0);
    let store = cluster.data_dir(0).join("block/data-current.blk");
    let bytes = std::fs::metadata(&store).expect("the daemon made its store").len();
    assert!(bytes >= 64 << 20, "the store is preallocated: {bytes}");

    // A folder of somebody else's, and one whose store lost what says that it is ours.
    let letter = b"a letter to Jane";
    let foreign = cluster.data_dir(7).join("block/data-current.blk");
    std::fs::create_dir_all(cluster.data_dir(7).join("block")).unwrap();
    std::fs::write(&foreign, letter).unwrap();
    assert_refused(&daemon(&cluster, 7, "64MiB", "127.0.0.1:1"), FAILURE, "torusd-8");
    assert_eq!(std::fs::read(foreign).unwrap(), letter);

    let superblock = cluster.data_dir(0).join("block/superblock");
    std::fs::write(&superblock, letter).unwrap();
    let address = cluster.address(0);
    assert_refused(&daemon(&cluster, 0, "64MiB", &address), FAILURE, "superblock");
    assert_eq!(std::fs::read(superblock).unwrap(), letter);
    assert_eq!(std::fs::metadata(store).unwrap().len(), bytes);
}

#[test]
fn etcd_is_answered_with_a_sentence() {
    let outcome = run(&binary("torusd"), ["--etcd", "127.0.0.1:2379"], BOUND);
    assert_refused(&outcome, USAGE, "--join");
}
