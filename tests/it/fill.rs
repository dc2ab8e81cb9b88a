//! A cluster that fills up: writers are told, everything else goes on, and so do they when there is
//! space again.

use std::io;
use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, NbdClient, NbdServer, Stopwatch, wait_until};

const MIB: u64 = 1 << 20;
/// Of the volume: far more than there is space for.
const MEBIBYTES: u64 = 1024;
const CYCLES: u8 = 3;
const BOUND: Duration = Duration::from_secs(30);
/// No request may take longer, however full the cluster is.
const LONGEST: Duration = Duration::from_secs(20);
/// What NBD says when there is no space.
const ENOSPC: i32 = 28;

/// Three small stores with two copies, and a volume that is larger than they are.
fn cluster() -> Cluster {
    let options = ClusterOptions { replication: 2, size: "128MiB", ..ClusterOptions::default() };
    let cluster = Cluster::start(&options);
    cluster.create_volume("disk", &format!("{MEBIBYTES}MiB"));
    cluster
}

/// Writes mebibytes from `first` on, each with its number, until it is refused; the first that is
/// not there.
#[track_caller]
fn fill(client: &mut NbdClient, first: u64, byte: u8) -> u64 {
    for mebibyte in first..MEBIBYTES {
        let watch = Stopwatch::start();
        let written = client.write(mebibyte * MIB, &content(mebibyte, byte));
        assert!(watch.elapsed() < LONGEST, "a write took {:.1?}", watch.elapsed());
        match written {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(ENOSPC) => return mebibyte,
            Err(error) => panic!("not the error of a full disk: {error}"),
        }
    }
    panic!("{MEBIBYTES} MiB fit into it");
}

fn content(mebibyte: u64, byte: u8) -> Vec<u8> {
    let page = [mebibyte.to_le_bytes(), [byte; 8]].concat();
    page.repeat(1 << 16)
}

#[track_caller]
fn assert_holds(client: &mut NbdClient, mebibytes: std::ops::Range<u64>, byte: u8) {
    for mebibyte in mebibytes {
        let found = client.read(mebibyte * MIB, 1 << 20).unwrap();
        assert!(found == content(mebibyte, byte), "mebibyte {mebibyte} of cycle {byte}");
    }
}

/// Trims and flushes, which a full cluster still does.
#[track_caller]
fn trim(client: &mut NbdClient, mebibytes: std::ops::Range<u64>) {
    for mebibyte in mebibytes {
        client.trim(mebibyte * MIB, 1 << 20).unwrap();
    }
    client.flush().unwrap();
}

/// Waits until a page can be written again.
#[track_caller]
fn wait_for_space(client: &mut NbdClient) {
    wait_until("there is space again", BOUND, || {
        let written: io::Result<()> = client.write(0, &[9; 4096]).and_then(|()| client.flush());
        written
    });
}

/// Fills the volume and flushes; how many mebibytes it took. What was acknowledged is there.
#[track_caller]
fn fill_and_check(server: &NbdServer, byte: u8) -> u64 {
    let mut client = server.connect().unwrap();
    let end = fill(&mut client, 1, byte);
    client.flush().unwrap_or_else(|err| panic!("flush of {end} MiB: {err}"));
    assert_holds(&mut client, 1..end, byte);
    // Refused again, at once and not by hanging; reads go on.
    let again = client.write(end * MIB, &[1; 4096]).and_then(|()| client.flush());
    println!("cycle {byte}: {end} MiB, then {again:?}");
    assert_holds(&mut client, 1..2, byte);
    end
}

#[test]
fn a_full_cluster_refuses_writes_and_takes_them_again_after_a_trim() {
    let mut cluster = cluster();
    let server = cluster.serve("disk");
    for cycle in 1..=CYCLES {
        let end = fill_and_check(&server, cycle);
        assert!(end > 64, "only {end} MiB fit");
        if cycle == 1 {
            // Later ones may find garbage to free.
            let todo = cluster.ctl(&["status"]);
            assert!(todo.stdout.contains("full"), "{todo}");
        }
        // Half of it stays.
        let mut client = server.connect().unwrap();
        trim(&mut client, 1..end / 2);
        wait_for_space(&mut client);
        assert_holds(&mut client, end / 2..end, cycle);
        trim(&mut client, end / 2..end);
        cluster.wait_for_space(64);
    }
    server.stop();
}

#[test]
fn what_was_written_to_a_full_cluster_survives_its_crash_and_space_comes_from_deletions_too() {
    let mut cluster = cluster();
    cluster.create_volume("victim", "64MiB");
    let server = cluster.serve("victim");
    let mut client = server.connect().unwrap();
    for mebibyte in 0..64 {
        client.write(mebibyte * MIB, &[7; 1 << 20]).unwrap();
    }
    client.flush().unwrap();
    drop(client);
    server.stop();

    let mut server = cluster.serve("disk");
    let end = fill_and_check(&server, 1);
    cluster.kill9_all();
    server.kill9();
    cluster.restart_all();
    // A volume is opened without space, too.
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    assert_holds(&mut client, 1..end, 1);
    cluster.ctl(&["volume", "delete", "victim"]).success();
    wait_for_space(&mut client);
    assert_holds(&mut client, 1..end, 1);
    assert_eq!(client.read(0, 4096).unwrap(), [9; 4096]);
    // And so it is with a snapshot that holds what was overwritten.
    trim(&mut client, 1..end);
    cluster.wait_for_space(64);
    let half = (end / 2).min(48);
    for mebibyte in 1..half {
        client.write(mebibyte * MIB, &content(mebibyte, 2)).unwrap();
    }
    client.flush().unwrap();
    cluster.snapshot(&["disk@s"]);
    let end = fill(&mut client, 1, 3);
    client.flush().unwrap();
    assert_holds(&mut client, 1..end.max(2), 3);
    cluster.ctl(&["snapshot", "delete", "disk@s"]).success();
    wait_for_space(&mut client);
    assert_holds(&mut client, 1..end.max(2), 3);
}
