//! From an empty folder to a usable volume, as the README tells it.

use std::fs;
use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, Stopwatch};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn three_daemons_and_three_commands_make_a_usable_volume_within_ten_seconds() {
    let watch = Stopwatch::start();
    let options = ClusterOptions::default();
    let mut cluster = Cluster::bare(options.size);
    for _ in 0..options.daemons {
        cluster.add_daemon();
    }
    cluster.form(&options); // torusctl init; torusctl peer add --all-peers
    cluster.create_volume("myVolume", "10GiB");
    let formed = watch.elapsed();

    let server = cluster.serve("myVolume");
    let mut client = server.connect().unwrap();
    assert_eq!(client.size(), 10 << 30);
    client.write(4096, b"hello").unwrap();
    client.flush().unwrap();
    assert_eq!(client.read(4096, 5).unwrap(), b"hello");
    let usable = watch.elapsed();
    println!("volume created after {formed:.1?}, written and flushed after {usable:.1?}");
    assert!(usable < BOUND, "it took {usable:.1?}");

    for index in 0..options.daemons {
        let children = children(cluster.pid(index));
        assert!(children.is_empty(), "torusd runs further processes: {children}");
    }
}

/// The processes that `pid` has started and that still run.
fn children(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let children = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
    children.map(Result::unwrap_or_default).collect()
}

#[test]
fn a_daemon_without_a_cluster_says_what_it_waits_for_and_ends_in_order() {
    let mut cluster = Cluster::bare("64MiB");
    let first = cluster.add_daemon();
    let log = fs::read_to_string(cluster.folder().join("torusd-1.log")).unwrap();
    assert!(log.contains("torusctl init"), "{log}");
    cluster.stop(first);
}

#[test]
fn a_cluster_that_was_stopped_in_order_comes_back_with_its_data() {
    let mut cluster = Cluster::start(&ClusterOptions::default());
    cluster.create_volume("kept", "64MiB");
    let server = cluster.serve("kept");
    let mut client = server.connect().unwrap();
    client.write(1 << 20, &[7; 4096]).unwrap();
    client.flush().unwrap();
    drop(client);
    server.stop();
    for index in 0..3 {
        cluster.stop(index);
    }

    cluster.restart_all();
    let server = cluster.serve("kept");
    assert_eq!(server.connect().unwrap().read(1 << 20, 4096).unwrap(), [7; 4096]);
}
