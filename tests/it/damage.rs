//! A disk that returns other bytes than were written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, History, PAGE, Random, wait_until};

const BOUND: Duration = Duration::from_secs(60);
/// Pages that are written, over and over: 16 MiB.
const PAGES: u64 = 4096;
/// What a client's log says of each bad copy that it was given.
const COMPLAINT: &str = "fails its checksum";

/// Changes one byte in every page of a store that was ever written; how many these are.
fn damage(store: &Path) -> u64 {
    let file = File::options().read(true).write(true).open(store).unwrap();
    let length = file.metadata().unwrap().len();
    let mut damaged = 0;
    let mut page = [0; PAGE];
    for offset in (0..length).step_by(PAGE) {
        file.read_exact_at(&mut page, offset).unwrap();
        if page.iter().any(|&byte| byte != 0) {
            let place = usize::try_from(offset / PAGE as u64).unwrap() % PAGE;
            file.write_all_at(&[!page[place]], offset + place as u64).unwrap();
            damaged += 1;
        }
    }
    damaged
}

/// Changes `count` random bytes of a file: of what was ever written to it, if `is_data`.
fn damage_at_random(path: &Path, count: u64, is_data: bool, random: &mut Random) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let mut left = count;
    while left > 0 {
        let offset = random.within(0..length);
        let mut page = [0; PAGE];
        let start = offset - offset % PAGE as u64;
        let found = file.read_at(&mut page, start).unwrap();
        if is_data && page[..found].iter().all(|&byte| byte == 0) {
            continue;
        }
        let byte = page[usize::try_from(offset - start).unwrap()];
        let other = byte ^ u8::try_from(random.within(1..256)).unwrap();
        file.write_all_at(&[other], offset).unwrap();
        left -= 1;
    }
}

#[test]
fn a_thousand_random_bytes_of_a_store_are_no_wrong_byte_for_a_reader() {
    let options = ClusterOptions { replication: 2, size: "256MiB", ..ClusterOptions::default() };
    let mut cluster = Cluster::start(&options);
    cluster.create_volume("disk", "64MiB");
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    let mut history = History::new(PAGES);
    let mut random = Random::seeded(12);
    let mut write = |history: &mut History, random: &mut Random| {
        (0..300).for_each(|_| history.mixed(&mut client, random).unwrap());
        history.flush(&mut client).unwrap();
        history.read(&mut client).unwrap()
    };
    let before = write(&mut history, &mut random);
    cluster.snapshot(&["disk@before"]);
    let after = write(&mut history, &mut random);
    drop(client);
    server.stop();

    let victim = 1;
    cluster.stop(victim);
    let store = cluster.data_dir(victim).join("block");
    damage_at_random(&store.join("data-current.blk"), 600, true, &mut random);
    damage_at_random(&store.join("map-current.blk"), 200, false, &mut random);
    damage_at_random(&store.join("seal-current.blk"), 200, false, &mut random);
    cluster.restart(victim);
    cluster.wait_for_peers(3);

    // What is damaged or gone is read from the other copy, and comes back from there.
    let server = cluster.serve_all(&["disk", "disk@before"]);
    let read = || {
        let complaints = server.log().matches(COMPLAINT).count();
        for (name, shown) in [("disk", &after), ("disk@before", &before)] {
            let mut client = server.connect_to(name).unwrap();
            assert!(history.read(&mut client).unwrap() == *shown, "{name}");
        }
        server.log().matches(COMPLAINT).count() - complaints
    };
    println!("{} reads met a bad copy", read());
    wait_until("what was read is good again", BOUND, || match read() {
        0 => Ok(()),
        bad => Err(format!("{bad} reads met a bad copy")),
    });
    server.stop();
    // Slots whose names were damaged may stay taken, by blocks that nobody has.
    cluster.wait_for_repair();
}

/// Damages all that one daemon of three holds, and reads everything.
fn check(replication: usize) {
    let options = ClusterOptions { replication, size: "256MiB", ..ClusterOptions::default() };
    let mut cluster = Cluster::start(&options);
    cluster.create_volume("disk", "64MiB");
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    let mut history = History::new(PAGES);
    let mut random = Random::seeded(11);
    history.flushed_writes(&mut client, &mut random, 500).unwrap();
    drop(client);
    server.stop();

    let victim = 1;
    cluster.stop(victim);
    let pages = damage(&cluster.data_dir(victim).join("block/data-current.blk"));
    cluster.restart(victim);
    cluster.wait_for_peers(3);

    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    let mut read = || {
        let before = server.log().matches(COMPLAINT).count();
        let prefix = history.check(&mut client).unwrap();
        assert_eq!(prefix.last, prefix.issued);
        server.log().matches(COMPLAINT).count() - before
    };
    let bad = read();
    println!("{pages} pages are damaged, {bad} reads met one");
    assert!(bad > 0, "no damaged page was read");
    wait_until("what was read is good again", BOUND, || match read() {
        0 => Ok(()),
        bad => Err(format!("{bad} reads met a bad copy")),
    });
}

#[test]
fn with_two_copies_the_good_one_is_read_and_replaces_the_bad_one() {
    check(2);
}

#[test]
fn with_three_copies_a_good_one_is_read_and_replaces_the_bad_one() {
    check(3);
}
