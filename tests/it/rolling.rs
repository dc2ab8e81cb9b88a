//! Daemons die and come back one after another while a client writes.

use torus_tests::{Cluster, ClusterOptions, History, Random};

use crate::load::Load;

/// Pages that are written, over and over: 16 MiB.
const PAGES: u64 = 4096;
const ROUNDS: usize = 8;

/// Kills a random daemon in each round, restarts it, and in the end holds the volume against what
/// was written and the copies against the ring.
fn check(replication: usize, seed: u64) {
    let mut random = Random::seeded(seed);
    let options = ClusterOptions { replication, ..ClusterOptions::default() };
    let mut cluster = Cluster::start(&options);
    cluster.create_volume("disk", "64MiB");
    let server = cluster.serve("disk");
    let load = Load::start(server.connect().unwrap(), History::new(PAGES), Random(random.draw()));
    for _ in 0..ROUNDS {
        load.wait_for(random.within(1..200));
        let victim = usize::try_from(random.within(0..3)).unwrap();
        cluster.kill9(victim);
        load.wait_for(random.within(1..200));
        cluster.restart(victim);
        cluster.wait_for_peers(3);
    }
    let report = load.finish();
    report.result.expect("no error");
    println!("the longest request took {:.1?}", report.longest_pause);
    server.stop();

    // A daemon that was away until the end may hold what was deleted meanwhile: the next opener gives
    // it back.
    let mut history = report.history;
    let server = cluster.serve("disk");
    let prefix = history.check(&mut server.connect().unwrap()).unwrap();
    assert_eq!(prefix.last, prefix.issued);
    server.stop();
    let blocks = cluster.wait_for_balance();
    println!("{blocks} blocks, {} writes", history.issued());
}

#[test]
fn with_two_copies_none_is_missing_after_daemons_died_one_after_another() {
    check(2, 9);
}

#[test]
fn with_three_copies_none_is_missing_after_daemons_died_one_after_another() {
    check(3, 10);
}
