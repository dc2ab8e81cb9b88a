//! Volumes as they were: taken online, read by many, deleted, restored, of several at one instant.

use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, History, NbdServer, Random, wait_until};

use crate::load::Load;
use crate::refused::assert_refused;

/// Pages that are written, over and over: 8 MiB.
const PAGES: u64 = 2048;
const BOUND: Duration = Duration::from_secs(30);
/// What NBD says of a write to what is read-only.
const EPERM: i32 = 1;

/// Two copies of everything, and some volumes of 64 MiB.
fn cluster_with(volumes: &[&str]) -> Cluster {
    let cluster = Cluster::start(&ClusterOptions { replication: 2, ..ClusterOptions::default() });
    volumes.iter().for_each(|volume| cluster.create_volume(volume, "64MiB"));
    cluster
}

/// What a snapshot shows, read through a server.
#[track_caller]
fn read(server: &NbdServer, snapshot: &str, history: &History) -> Vec<u64> {
    let mut client = server.connect_to(snapshot).unwrap();
    assert!(client.is_read_only(), "{snapshot}");
    history.read(&mut client).unwrap()
}

#[test]
fn snapshots_of_a_volume_that_is_written_stay_the_same_for_every_reader() {
    let mut cluster = cluster_with(&["disk"]);
    let mut random = Random::seeded(31);
    let mut writer = cluster.serve("disk");
    let mut history = History::new(PAGES);
    let names = ["disk@one", "disk@two", "disk@three"];
    let mut shown: Vec<Vec<u64>> = Vec::new();
    for name in names {
        let client = writer.connect().unwrap();
        let load = Load::mixed(client, history, Random(random.draw()));
        load.wait_for(200);
        let written = load.written();
        cluster.snapshot(&[name]);
        let moment = written..=load.begun();
        load.wait_for(200);
        let report = load.finish();
        report.result.expect("no error");
        history = report.history;

        // Two processes read at once, each with two clients; the writer is a third.
        let [first, second] = [0, 1].map(|_| cluster.serve(name));
        let mut clients = [&first, &first, &second, &second].map(|it| it.connect().unwrap());
        let seen = clients.each_mut().map(|client| history.read(client).unwrap());
        assert!(seen.iter().all(|it| *it == seen[0]), "readers of {name} differ");
        let refused = clients[0].write(0, &[1; 4096]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(EPERM), "{refused}");
        let shows = history.check_snapshot(&seen[0], moment.clone());
        println!("{name}: {shows:?} of {moment:?}");
        shows.unwrap();
        shown.extend(seen.into_iter().take(1));
    }
    assert_eq!(cluster.snapshots("disk"), ["one", "two", "three"]);

    // Neither the death of the writer nor what the next one does changes any.
    writer.kill9();
    for pass in 0..2 {
        let server = cluster.serve_all(&names);
        for (name, shown) in names.iter().zip(&shown) {
            assert!(read(&server, name, &history) == *shown, "{name}, pass {pass}");
        }
        server.stop();
        let writer = cluster.serve("disk");
        history.check(&mut writer.connect().unwrap()).unwrap();
        let client = writer.connect().unwrap();
        let load = Load::start(client, history, Random(random.draw()));
        load.wait_for(500);
        let report = load.finish();
        report.result.expect("no error");
        history = report.history;
        writer.stop();
    }
}

#[test]
fn a_deleted_snapshot_gives_its_space_back_but_not_while_it_is_read() {
    let mut cluster = cluster_with(&["disk"]);
    let writer = cluster.serve("disk");
    let mut client = writer.connect().unwrap();
    let mut fill = |byte: u8| {
        for mebibyte in 0..16 {
            client.write(mebibyte << 20, &[byte; 1 << 20]).unwrap();
        }
        client.flush().unwrap();
    };
    fill(1);
    let before = cluster.copies_stored();
    cluster.snapshot(&["disk@old"]);
    fill(2);
    let own = 2 * (16 << 20 >> 19); // two copies of 16 MiB in blocks of 512 KiB
    assert!(cluster.copies_stored() >= before + own, "the snapshot takes no space");
    let mut reader = cluster.serve("disk@old");
    assert_refused(&cluster.ctl(&["snapshot", "delete", "disk@old"]), 1, "being read");
    assert_eq!(reader.connect().unwrap().read(15 << 20, 4096).unwrap(), [1; 4096]);

    // A reader that died is not waited for any longer than its session.
    reader.kill9();
    wait_until("the snapshot is not read any more", BOUND, || {
        let outcome = cluster.ctl(&["snapshot", "delete", "disk@old"]);
        if outcome.code == 0 { Ok(()) } else { Err(outcome) }
    });
    cluster.wait_for_space(before + 8);
    assert_eq!(writer.connect().unwrap().read(15 << 20, 4096).unwrap(), [2; 4096]);
    assert!(cluster.snapshots("disk").is_empty());
    let gone = cluster.try_serve("disk@old").unwrap_err();
    assert!(gone.stderr.contains("no snapshot"), "{gone}");
}

#[test]
fn a_volume_is_taken_back_to_a_snapshot_but_not_while_it_is_used() {
    let mut cluster = cluster_with(&["disk"]);
    let writer = cluster.serve("disk");
    let mut client = writer.connect().unwrap();
    let mut history = History::new(PAGES);
    let mut random = Random::seeded(32);
    let mut write = |client: &mut _, history: &mut History| {
        (0..100).for_each(|_| history.write(client, &mut random).unwrap());
        history.flush(client).unwrap();
    };
    write(&mut client, &mut history);
    cluster.snapshot(&["disk@good"]);
    let good = history.read(&mut client).unwrap();
    write(&mut client, &mut history);
    cluster.snapshot(&["disk@later"]);
    let later = history.read(&mut client).unwrap();
    assert_refused(&cluster.ctl(&["snapshot", "restore", "disk@good"]), 1, "in use by");
    assert_eq!(history.check(&mut client).unwrap().last, history.issued(), "it goes on");
    drop(client);
    writer.stop();

    // Back and forth, the later one is there still.
    for (name, shown) in [("disk@good", &good), ("disk@later", &later), ("disk@good", &good)] {
        cluster.ctl(&["snapshot", "restore", name]).success();
        let server = cluster.serve("disk");
        let mut client = server.connect().unwrap();
        assert!(history.read(&mut client).unwrap() == *shown, "after restore of {name}");
        client.write(0, &[7; 4096]).unwrap();
        client.flush().unwrap();
        drop(client);
        server.stop();
    }
    assert_eq!(cluster.snapshots("disk"), ["good", "later"]);
}

#[test]
fn a_volume_in_nobodys_use_has_snapshots_too() {
    let mut cluster = cluster_with(&["disk", "never-used"]);
    let mut writer = cluster.serve("disk");
    let mut client = writer.connect().unwrap();
    client.write(0, &[5; 8192]).unwrap();
    client.flush().unwrap();
    writer.kill9();
    // The dead writer's session ends, then what it flushed is recovered and in the snapshot.
    cluster.snapshot(&["disk@dead", "never-used@dead"]);
    cluster.snapshot(&["disk@again"]);
    let server = cluster.serve_all(&["disk@dead", "disk@again", "never-used@dead"]);
    for (name, byte) in [("disk@dead", 5), ("disk@again", 5), ("never-used@dead", 0)] {
        let mut client = server.connect_to(name).unwrap();
        assert_eq!(client.read(0, 8192).unwrap(), [byte; 8192], "{name}");
    }
}

#[test]
fn snapshots_of_a_group_show_one_instant() {
    let mut cluster = cluster_with(&["data", "log"]);
    let server = cluster.serve_all(&["data", "log"]);
    let (mut data, mut log) = (server.connect().unwrap(), server.connect_to("log").unwrap());
    // As a database does: what is in `data` was in `log` before. Page 0 of each holds a number.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let client = std::thread::spawn(move || {
        let mut number = 0u64;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            number += 1;
            let page = number.to_le_bytes().repeat(512);
            log.write(0, &page).unwrap();
            data.write(0, &page).unwrap();
        }
        number
    });
    let names =
        ["a", "b", "c", "d", "e"].map(|name| [format!("data@{name}"), format!("log@{name}")]);
    for [data, log] in &names {
        cluster.snapshot(&[data, log]);
    }
    stop.send(()).unwrap();
    let last = client.join().unwrap();

    let all: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
    let reader = cluster.serve_all(&all);
    let number = |name: &str| {
        let page = reader.connect_to(name).unwrap().read(0, 4096).unwrap();
        u64::from_le_bytes(page[..8].try_into().unwrap())
    };
    let mut before = 0;
    for [data, log] in &names {
        let (data, log) = (number(data), number(log));
        println!("data {data}, log {log} of {last}");
        assert!(data == log || data + 1 == log, "data {data}, log {log}");
        assert!(before <= data && log <= last, "not in order");
        before = data;
    }
}
