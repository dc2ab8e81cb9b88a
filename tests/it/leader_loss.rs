//! The daemon that leads the Raft group dies under load.

use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, History, Random, Stopwatch, wait_until};

use crate::load::Load;

/// Within it metadata commands work again, and no request of a volume takes longer.
const BOUND: Duration = Duration::from_secs(5);

#[test]
fn metadata_and_volumes_go_on_within_five_seconds_of_the_leaders_death() {
    let mut cluster = Cluster::start(&ClusterOptions::default());
    cluster.create_volume("disk", "64MiB");
    let server = cluster.serve("disk");
    let load = Load::start(server.connect().unwrap(), History::new(4096), Random::seeded(4));
    load.wait_for(300);

    let leader = cluster.leader();
    cluster.kill9(leader);
    let watch = Stopwatch::start();
    wait_until("a volume can be created", BOUND, || {
        let outcome = cluster.ctl(&["volume", "create-block", "after", "16MiB"]);
        if outcome.code == 0 { Ok(()) } else { Err(outcome) }
    });
    let metadata = watch.elapsed();

    load.wait_for(300);
    let mut report = load.finish();
    report.result.expect("no error");
    println!("metadata after {metadata:.1?}, longest request {:.1?}", report.longest_pause);
    assert!(metadata < BOUND && report.longest_pause < BOUND);
    let prefix = report.history.check(&mut server.connect().unwrap()).unwrap();
    assert_eq!(prefix.last, prefix.issued);

    cluster.restart(leader);
    cluster.create_volume("again", "16MiB");
}
