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

/// A volume with a snapshot and a clone of that, and one that is empty.
fn cluster_with_clone() -> Cluster {
    let cluster =
        Cluster::start(&ClusterOptions { daemons: 1, replication: 1, ..Default::default() });
    cluster.create_volume("disk", "16MiB");
    cluster.create_volume("empty", "16MiB");
    cluster.snapshot(&["disk@s"]);
    cluster.ctl(&["volume", "clone", "disk@s", "clone"]).success();
    std::fs::write(cluster.folder().join("file"), [1; 5000]).unwrap();
    std::fs::write(cluster.folder().join("nothing"), []).unwrap();
    cluster
}

/// Commands as they are typed, `FOLDER` for the cluster's; an exit code and what the line says.
#[track_caller]
fn check_refused(cluster: &Cluster, cases: &[(&str, i32, &str)]) {
    let folder = cluster.folder().to_str().expect("a path in UTF-8");
    let state = || {
        let mut list = cluster.ctl_json(&["volume", "list"]);
        // Whoever opens a volume counts, and has a place for its log.
        for volume in list["volumes"].as_array_mut().expect("volumes") {
            for field in ["epoch", "head", "inode_index", "windows"] {
                volume[field].take();
            }
        }
        list
    };
    let before = state();
    for &(command, code, part) in cases {
        let command = command.replace("FOLDER", folder);
        let outcome = cluster.ctl(&command.split(' ').collect::<Vec<_>>());
        println!("torusctl {command}: {}", outcome.stderr.trim());
        assert_refused(&outcome, code, part);
        assert_eq!(state(), before, "after {command}");
    }
}

#[test]
fn snapshots_that_cannot_be_are_not_taken_or_deleted_or_restored() {
    let cluster = cluster_with_clone();
    check_refused(
        &cluster,
        &[
            ("snapshot create disk", USAGE, "VOLUME@SNAPSHOT"),
            ("snapshot create @s", USAGE, "VOLUME@SNAPSHOT"),
            ("snapshot create disk@", USAGE, "VOLUME@SNAPSHOT"),
            ("snapshot create disk@a@b", USAGE, "more than one @"),
            ("snapshot create disk@a/b", USAGE, "a/b"),
            ("snapshot create disk@s", FAILURE, "already"),
            ("snapshot create nowhere@s", FAILURE, "nowhere"),
            ("snapshot create disk@new nowhere@new", FAILURE, "nowhere"),
            ("snapshot create empty@s disk@s", FAILURE, "already"),
            ("snapshot create disk@a empty@b", USAGE, "one name"),
            ("snapshot create disk@a disk@a", USAGE, "twice"),
            ("snapshot create disk@a --timeout 0", USAGE, "seconds"),
            ("snapshot list nowhere", FAILURE, "nowhere"),
            ("snapshot list disk@s", FAILURE, "disk@s"),
            ("snapshot delete disk@x", FAILURE, "snapshot list disk"),
            ("snapshot delete disk@s", FAILURE, "flatten or delete"),
            ("snapshot delete --force disk@s", FAILURE, "flatten or delete"),
            ("snapshot delete disk", USAGE, "VOLUME@SNAPSHOT"),
            ("snapshot restore disk@x", FAILURE, "snapshot list disk"),
            ("snapshot restore nowhere@s", FAILURE, "nowhere"),
            ("snapshot restore disk", USAGE, "VOLUME@SNAPSHOT"),
            ("block snapshot create disk@s", FAILURE, "already"),
            ("volume snapshot delete disk@x", FAILURE, "snapshot list disk"),
        ],
    );
}

#[test]
fn volumes_are_not_cloned_or_resized_or_renamed_to_what_cannot_be() {
    let cluster = cluster_with_clone();
    check_refused(
        &cluster,
        &[
            ("volume clone disk new", USAGE, "snapshot create disk@"),
            ("volume clone disk@x new", FAILURE, "snapshot list disk"),
            ("volume clone nowhere@s new", FAILURE, "nowhere"),
            ("volume clone disk@s clone", FAILURE, "clone"),
            ("volume clone disk@s a/b", USAGE, "a/b"),
            ("volume clone disk@s a@b", USAGE, "a@b"),
            ("volume flatten nowhere", FAILURE, "nowhere"),
            ("volume resize disk 0", USAGE, "0"),
            ("volume resize disk 10XB", USAGE, "10XB"),
            ("volume resize disk 1EiB", FAILURE, "EiB"),
            ("volume resize nowhere 1GiB", FAILURE, "nowhere"),
            ("volume resize disk@s 1GiB", USAGE, "disk@s"),
            ("volume rename disk clone", FAILURE, "clone"),
            ("volume rename disk a@b", USAGE, "a@b"),
            ("volume rename nowhere new", FAILURE, "nowhere"),
            ("volume delete disk", FAILURE, "flatten or delete"),
            ("volume delete --force disk", FAILURE, "flatten or delete"),
            ("volume delete disk@s", FAILURE, "disk@s"),
            ("volume info disk@s", FAILURE, "disk@s"),
            ("volume create-block new 1GiB --replication 0", USAGE, "0"),
            ("volume create-block new 1GiB --block-spec parity", USAGE, "parity"),
            ("volume create-block a@b 1GiB", USAGE, "a@b"),
        ],
    );
    let same = cluster.ctl(&["volume", "resize", "disk", "16MiB"]);
    same.success();
}

#[test]
fn what_is_no_image_is_not_imported_and_what_exists_is_not_written_over() {
    let cluster = cluster_with_clone();
    check_refused(
        &cluster,
        &[
            ("volume import FOLDER/nowhere new", FAILURE, "nowhere"),
            ("volume import FOLDER new", FAILURE, "directory"),
            ("volume import FOLDER/nothing new", USAGE, "--size"),
            ("volume import - new", USAGE, "--size"),
            ("volume import FOLDER/file disk", FAILURE, "disk"),
            ("volume import FOLDER/file a@b", USAGE, "a@b"),
            ("volume import FOLDER/file new --size 4KiB", USAGE, "--size"),
            ("volume import FOLDER/file new --size 1EiB", FAILURE, "EiB"),
            ("volume import FOLDER/file new --force", USAGE, "--force"),
            ("volume export nowhere -", FAILURE, "nowhere"),
            ("volume export disk@x -", FAILURE, "disk@x"),
            ("volume export disk FOLDER/file", FAILURE, "--force"),
            ("volume export disk FOLDER/no/such/folder", FAILURE, "no/such"),
            ("volume export disk FOLDER", FAILURE, "no regular file"),
            ("volume export disk@s - --since x", FAILURE, "disk@x"),
            ("volume export disk@s - --since s", USAGE, "older"),
            ("volume export disk - --since s", USAGE, "disk@"),
            ("volume export disk@s - --since s --format raw", USAGE, "raw"),
        ],
    );
    let file = cluster.folder().join("file");
    assert_eq!(std::fs::read(file).unwrap(), [1; 5000]);
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
