//! Sizes, names and ends of volumes.

use torus_tests::{Cluster, ClusterOptions, NbdServer, run, tool};

use crate::refused::{FAILURE, assert_refused};

const MIB: u64 = 1 << 20;
const BOUND: std::time::Duration = std::time::Duration::from_secs(30);

fn cluster() -> Cluster {
    let cluster = Cluster::start(&ClusterOptions { replication: 2, ..ClusterOptions::default() });
    cluster.create_volume("disk", "64MiB");
    cluster
}

#[track_caller]
fn resize(cluster: &Cluster, arguments: &[&str]) {
    cluster.ctl(&[&["volume", "resize", "disk"], arguments].concat()).success();
}

/// Writes one page at the mebibytes and flushes.
#[track_caller]
fn write(server: &NbdServer, mebibytes: &[u64]) {
    let mut client = server.connect().unwrap();
    for mebibyte in mebibytes {
        client.write(mebibyte * MIB, &[9; 4096]).unwrap();
    }
    client.flush().unwrap();
}

#[track_caller]
fn assert_page(server: &NbdServer, mebibyte: u64, byte: u8) {
    let page = server.connect().unwrap().read(mebibyte * MIB, 4096).unwrap();
    assert_eq!(page, [byte; 4096], "at {mebibyte} MiB");
}

/// What a stock client is told when it connects.
#[track_caller]
fn assert_size(server: &NbdServer, mebibytes: u64) {
    let info = run(&tool("nbdinfo"), ["--size", &server.uri()], BOUND).success();
    assert_eq!(info.stdout.trim(), (mebibytes * MIB).to_string());
}

#[test]
fn a_volume_in_use_grows_and_shrinks_under_its_clients() {
    let mut cluster = cluster();
    let server = cluster.serve("disk");
    write(&server, &[0, 40]);
    let mut old = server.connect().unwrap();
    let behind = old.write(64 * MIB, &[1; 4096]);
    assert!(behind.is_err(), "behind the end");

    resize(&cluster, &["128MiB"]);
    assert_size(&server, 128);
    write(&server, &[127]);
    assert_page(&server, 100, 0);
    old.write(4096, &[1; 4096]).expect("a client of before goes on");

    // 40 and 127 hold data.
    let refused = cluster.ctl(&["volume", "resize", "disk", "100MiB"]);
    assert_refused(&refused, FAILURE, "--discard");
    assert_size(&server, 128);
    assert_page(&server, 127, 9);
    resize(&cluster, &["--discard", "100MiB"]);
    assert_size(&server, 100);
    resize(&cluster, &["41MiB"]);
    assert_size(&server, 41);
    assert_page(&server, 40, 9);
    let behind = old.read(50 * MIB, 4096);
    assert!(behind.is_err(), "a client of before reads behind the new end");
    old.read(40 * MIB, 4096).expect("but goes on before it");

    // What was cut off does not come back.
    resize(&cluster, &["128MiB"]);
    assert_page(&server, 127, 0);
    write(&server, &[126]);
    server.stop();
    let server = cluster.serve("disk");
    assert_size(&server, 128);
    for (mebibyte, byte) in [(0, 9), (40, 9), (126, 9), (127, 0)] {
        assert_page(&server, mebibyte, byte);
    }
}

#[test]
fn a_volume_in_nobodys_use_grows_and_shrinks() {
    let mut cluster = cluster();
    let mut server = cluster.serve("disk");
    write(&server, &[0, 40]);
    // What only the log of a dead writer knows counts.
    server.kill9();
    let refused = cluster.ctl(&["volume", "resize", "disk", "32MiB"]);
    assert_refused(&refused, FAILURE, "--discard");
    resize(&cluster, &["--discard", "32MiB"]);
    assert_eq!(cluster.info("disk")["size"], 32 * MIB);
    resize(&cluster, &["64MiB"]);
    let server = cluster.serve("disk");
    assert_size(&server, 64);
    assert_page(&server, 0, 9);
    assert_page(&server, 40, 0);
}

#[test]
fn snapshots_keep_the_size_that_the_volume_had() {
    let mut cluster = cluster();
    let server = cluster.serve("disk");
    write(&server, &[0, 40]);
    cluster.snapshot(&["disk@large"]);
    resize(&cluster, &["--discard", "8MiB"]);
    cluster.snapshot(&["disk@small"]);
    server.stop();
    let large = cluster.serve("disk@large");
    assert_size(&large, 64);
    assert_page(&large, 40, 9);
    large.stop();
    for (snapshot, mebibytes) in [("disk@large", 64), ("disk@small", 8)] {
        cluster.ctl(&["snapshot", "restore", snapshot]).success();
        let server = cluster.serve("disk");
        assert_size(&server, mebibytes);
        assert_page(&server, 0, 9);
        server.stop();
    }
}

#[test]
fn a_volume_is_renamed_under_its_client_and_served_under_its_new_name() {
    let mut cluster = cluster();
    cluster.create_volume("other", "64MiB");
    let server = cluster.serve("disk");
    write(&server, &[0]);
    cluster.snapshot(&["disk@s"]);
    assert_refused(&cluster.ctl(&["volume", "rename", "disk", "other"]), FAILURE, "other");
    cluster.ctl(&["volume", "rename", "disk", "new"]).success();
    write(&server, &[1]);
    assert_eq!(cluster.volumes(), ["new", "other"]);
    assert_refused(&cluster.ctl(&["volume", "delete", "new"]), FAILURE, "in use by");
    server.stop();
    let gone = cluster.try_serve("disk").unwrap_err();
    assert!(gone.stderr.contains("disk"), "{gone}");

    let server = cluster.serve_all(&["new", "new@s"]);
    assert_page(&server, 0, 9);
    assert_page(&server, 1, 9);
    let mut snapshot = server.connect_to("new@s").unwrap();
    assert_eq!(snapshot.read(0, 4096).unwrap(), [9; 4096]);
    assert_eq!(snapshot.read(MIB, 4096).unwrap(), [0; 4096]);
}

#[test]
fn a_volume_with_snapshots_is_deleted_by_force_only_and_then_for_good() {
    let mut cluster = cluster();
    let server = cluster.serve("disk");
    write(&server, &(0..32).collect::<Vec<_>>());
    cluster.snapshot(&["disk@a"]);
    server.stop();
    cluster.snapshot(&["disk@b"]);
    let reader = cluster.serve("disk@a");
    assert_refused(&cluster.ctl(&["volume", "delete", "disk"]), FAILURE, "--force");
    assert_page(&reader, 31, 9);
    cluster.ctl(&["volume", "delete", "--force", "disk"]).success();
    assert!(cluster.volumes().is_empty());
    cluster.wait_for_space(0);
    // The reader has an error now, and never other data.
    let read = reader.connect().and_then(|mut client| client.read(31 * MIB, 4096));
    assert!(read.is_err(), "{read:?}");
}
