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

/// Damages all that one daemon of three holds, and reads everything.
fn check(replication: usize) {
    let options = ClusterOptions { replication, size: "256MiB", ..ClusterOptions::default() };
    let mut cluster = Cluster::start(&options);
    cluster.create_volume("disk", "64MiB");
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    let mut history = History::new(PAGES);
    let mut random = Random::seeded(11);
    for _ in 0..500 {
        history.write(&mut client, &mut random).unwrap();
    }
    history.flush(&mut client).unwrap();
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
