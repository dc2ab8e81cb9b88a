//! All metadata is lost, and comes back from a backup.

use std::fs;
use std::path::Path;
use std::time::Duration;

use torus_tests::{
    Cluster, ClusterOptions, History, Outcome, Random, Stopwatch, binary, run, wait_until,
};

use crate::refused::{FAILURE, assert_refused};

const BOUND: Duration = Duration::from_secs(30);
/// What comes after a restore goes on at least so far behind what came before.
const LEAP: u64 = 1 << 20;

fn cluster() -> Cluster {
    Cluster::start(&ClusterOptions { size: "512MiB", ..ClusterOptions::default() })
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[track_caller]
fn back_up(cluster: &Cluster, name: &str) -> String {
    let file = cluster.folder().join(name);
    cluster.ctl(&["metadata", "backup", text(&file)]).success();
    text(&file).to_owned()
}

/// Kills all daemons, and takes their metadata from them; their blocks stay.
fn lose_the_metadata(cluster: &mut Cluster) {
    cluster.kill9_all();
    for index in 0..3 {
        fs::remove_dir_all(cluster.data_dir(index).join("metadata")).unwrap();
    }
}

/// Restores into the first daemon, to which the others come.
#[track_caller]
fn restore(cluster: &mut Cluster, file: &str) -> Outcome {
    cluster.restart(0);
    let outcome = cluster.ctl(&["metadata", "restore", file]).success();
    cluster.restart_all();
    cluster.wait_for_peers(3);
    outcome
}

/// A line of shell with `torusctl` as `$bin`, and as `$ctl` with the addresses of all daemons.
#[track_caller]
fn shell(cluster: &Cluster, line: &str) -> Outcome {
    let bin = text(&binary("torusctl")).to_owned();
    let ctl = format!("{bin} -C {}", cluster.members());
    let line = format!("bin='{bin}'; ctl='{ctl}'; cd '{}'; {line}", text(cluster.folder()));
    run(Path::new("/bin/bash"), ["-c", &line], BOUND)
}

#[test]
fn volumes_are_served_again_from_the_stores_when_all_metadata_is_lost() {
    let mut cluster = cluster();
    cluster.create_volume("disk", "64MiB");
    let mut random = Random::seeded(81);
    let mut history = History::new(4096);
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    history.flushed_writes(&mut client, &mut random, 200).unwrap();
    drop(client);
    server.stop();
    let before = cluster.ctl_json(&["metadata", "dump"]);
    let file = back_up(&cluster, "backup");
    // A volume that the backup does not know.
    cluster.create_volume("late", "64MiB");
    let server = cluster.serve("late");
    server.connect().unwrap().write_through(0, &[7; 1 << 20]).unwrap();
    server.stop();
    let late = cluster.info("late")["id"].as_u64().unwrap();
    let copies = cluster.copies_stored();

    lose_the_metadata(&mut cluster);
    let said = restore(&mut cluster, &file);
    assert!(said.stdout.contains("generation 2") && said.stdout.contains("WARNING"), "{said}");
    assert_eq!(cluster.volumes(), ["disk"]);
    let after = cluster.ctl_json(&["metadata", "dump"]);
    assert_eq!((&after["cluster"], &after["generation"]), (&before["cluster"], &2.into()));
    let number = |dump: &serde_json::Value, path: &str| dump.pointer(path).unwrap().as_u64();
    for path in ["/revision", "/volumes/0/epoch", "/volumes/0/inode_index", "/rings/0/version"] {
        assert!(number(&after, path) > number(&before, path).map(|old| old + LEAP / 2), "{path}");
    }

    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    let prefix = history.check(&mut client).unwrap();
    assert_eq!(prefix.last, prefix.issued);
    history.flushed_writes(&mut client, &mut random, 100).unwrap();
    drop(client);
    server.stop();

    // What became of `late` nobody knows, so its blocks stay where those of a deleted volume go,
    // until somebody says that they may.
    cluster.create_volume("new", "64MiB");
    let new = cluster.info("new")["id"].as_u64().unwrap();
    assert!(new > late + LEAP / 2);
    let server = cluster.serve("new");
    server.connect().unwrap().write_through(0, &[8; 1 << 20]).unwrap();
    server.stop();
    cluster.ctl(&["volume", "delete", "new"]).success();
    let blocks = |volume: u64| {
        let list = cluster.ctl_json(&["peer", "blocks", &cluster.address(0)]);
        list["blocks"].as_array().unwrap().iter().filter(|b| b["volume"] == volume).count()
    };
    let wait_for_none = |volume| {
        wait_until(&format!("volume {volume} has no blocks"), BOUND, || match blocks(volume) {
            0 => Ok(()),
            left => Err(left),
        });
    };
    wait_for_none(new);
    assert!(copies > 0 && blocks(late) > 0, "the blocks of an unknown volume are gone");
    assert_eq!(cluster.ctl_json(&["metadata", "forget-lost"])["forgotten"], true);
    wait_for_none(late);
    let again = cluster.ctl(&["metadata", "forget-lost"]).success();
    assert!(again.stdout.contains("nothing to forget"), "{again}");
}

#[test]
fn what_was_flushed_after_the_backup_stands_as_far_as_its_windows_reach_and_a_stale_writer_ends() {
    let mut cluster = cluster();
    cluster.create_volume("disk", "64MiB");
    let mut random = Random::seeded(82);
    let mut history = History::new(4096);
    let stale = cluster.serve("disk");
    let mut client = stale.connect().unwrap();
    history.flushed_writes(&mut client, &mut random, 50).unwrap();
    let file = back_up(&cluster, "backup");
    history.flushed_writes(&mut client, &mut random, 50).unwrap();

    lose_the_metadata(&mut cluster);
    restore(&mut cluster, &file);
    // Nobody has the volume open in this generation.
    let watch = Stopwatch::start();
    let server = cluster.try_serve("disk").unwrap();
    println!("opened after {:.1?}", watch.elapsed());
    let mut fresh = server.connect().unwrap();
    let prefix = history.check(&mut fresh).unwrap();
    assert_eq!(prefix.last, prefix.issued, "no checkpoint and no window came since");
    let shown = fresh.read(0, 4096).unwrap();
    let written = client.write(0, &[3; 4096]).and_then(|()| client.flush());
    assert!(written.is_err(), "a writer of the former generation flushed");
    assert_eq!(fresh.read(0, 4096).unwrap(), shown);
}

#[test]
fn a_snapshot_from_before_the_backup_is_whole_whatever_was_written_after_it() {
    let mut cluster = cluster();
    cluster.create_volume("disk", "32MiB");
    let write = |cluster: &mut Cluster, byte: u8| {
        let server = cluster.serve("disk");
        let mut client = server.connect().unwrap();
        for mebibyte in 0..32 {
            client.write(mebibyte << 20, &[byte; 1 << 20]).unwrap();
        }
        client.flush().unwrap();
        drop(client);
        // Closing commits a checkpoint, and frees what it does not need.
        server.stop();
    };
    write(&mut cluster, 1);
    cluster.snapshot(&["disk@safe"]);
    let file = back_up(&cluster, "backup");
    for byte in 2..5 {
        write(&mut cluster, byte);
    }

    lose_the_metadata(&mut cluster);
    restore(&mut cluster, &file);
    cluster.ctl(&["volume", "clone", "disk@safe", "rescued"]).success();
    let server = cluster.serve("rescued");
    let mut client = server.connect().unwrap();
    for mebibyte in 0..32 {
        assert!(client.read(mebibyte << 20, 1 << 20).unwrap() == [1; 1 << 20], "at {mebibyte} MiB");
    }
}

#[test]
fn backups_come_from_any_member_and_bad_ones_are_refused() {
    let mut cluster = cluster();
    cluster.create_volume("disk", "64MiB");
    let file = back_up(&cluster, "backup");
    let bytes = fs::read(&file).unwrap();
    for index in 0..3 {
        let line =
            format!("$bin -C {} metadata backup - | tail -c +100 | wc -c", cluster.address(index));
        let size = shell(&cluster, &line).success().stdout.trim().parse::<usize>().unwrap();
        assert!(size > 100, "{size}");
    }
    let refused = |line: &str, part: &str| assert_refused(&shell(&cluster, line), FAILURE, part);
    refused("$ctl metadata backup backup", "--force");
    shell(&cluster, "$ctl metadata backup --force backup").success();
    refused("$ctl metadata backup no/where", "cannot write");
    refused("mkdir d; $ctl metadata backup d", "no regular file");
    refused("$ctl metadata backup - > /dev/full", "cannot write to standard output");
    refused("trap '' XFSZ; ulimit -f 0; $ctl metadata backup full", "cannot write full");
    assert_eq!(shell(&cluster, "ls -A | grep -c full").stdout.trim(), "0", "it left something");
    refused("$ctl metadata restore backup", "belongs to cluster");

    let daemon = cluster.address(0);
    lose_the_metadata(&mut cluster);
    cluster.restart(0);
    let check = |bytes: &[u8], part: &str| {
        fs::write(cluster.folder().join("bad"), bytes).unwrap();
        let line = format!("$bin -C {daemon} metadata restore bad");
        assert_refused(&shell(&cluster, &line), FAILURE, part);
    };
    check(b"", "no backup");
    check(b"#!/bin/sh\n", "no backup");
    check(&bytes[..10], "ends early");
    check(&bytes[..bytes.len() - 1], "ends early");
    check(&[&bytes[..], b"x"].concat(), "ends early");
    let mut later = bytes.clone();
    later[8] = 2;
    check(&later, "format is 2");
    for at in [20, bytes.len() / 2, bytes.len() - 20] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        check(&flipped, "damaged");
    }
    let refused = |line: &str, part: &str| assert_refused(&shell(&cluster, line), FAILURE, part);
    refused("$ctl metadata restore missing", "cannot read missing");
    // Where blocks of another cluster are, its backup is what is wanted.
    let waits = cluster.ctl(&["volume", "list"]);
    assert_refused(&waits, FAILURE, "not part of a cluster");
    cluster.ctl(&["metadata", "restore", &file]).success();
    assert_eq!(cluster.volumes(), ["disk"]);
    let twice = cluster.ctl(&["metadata", "restore", &file]);
    assert_refused(&twice, FAILURE, "belongs to cluster");
}

#[test]
fn a_daemon_with_the_blocks_of_another_cluster_does_not_take_a_backup() {
    let one = Cluster::start(&ClusterOptions {
        daemons: 1,
        replication: 1,
        size: "256MiB",
        ..ClusterOptions::default()
    });
    let file = back_up(&one, "backup");
    let mut other = cluster();
    lose_the_metadata(&mut other);
    other.restart(0);
    let refused = other.ctl(&["metadata", "restore", &file]);
    assert_refused(&refused, FAILURE, "another one than the backup's");
}
