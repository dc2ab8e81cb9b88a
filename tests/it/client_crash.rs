//! The client's side, or everything, dies while somebody writes and flushes.

use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, History, NbdServer, Random};

use crate::load::Load;

/// Pages that are written, over and over: 16 MiB.
const PAGES: u64 = 4096;

/// Crashes the system in `crash` at a random moment `rounds` times, and holds the volume against
/// what was written each time.
fn check(rounds: u64, seed: u64, crash: impl Fn(&mut Cluster, &mut NbdServer)) {
    let mut random = Random::seeded(seed);
    let mut cluster = Cluster::start(&ClusterOptions::default());
    cluster.create_volume("disk", "64MiB");
    let mut history = History::new(PAGES);
    for round in 1..=rounds {
        let mut server = cluster.serve("disk");
        let load = Load::start(server.connect().unwrap(), history, Random(random.draw()));
        load.wait_for(random.within(1..400));
        crash(&mut cluster, &mut server);
        let report = load.finish();
        assert!(report.result.is_err(), "round {round}: the client noticed no crash");
        history = report.history;
        drop(server);

        let server = cluster.serve("disk");
        let prefix = history.check(&mut server.connect().unwrap());
        let prefix = prefix.unwrap_or_else(|err| panic!("round {round}: {err}"));
        println!("round {round}: {prefix:?}");
        server.stop();
    }
}

#[test]
fn twenty_times_torusblk_is_killed_and_no_flushed_write_is_lost() {
    check(20, 1, |_cluster, server| server.kill9());
}

#[test]
fn ten_times_everything_is_killed_at_once_and_no_flushed_write_is_lost() {
    check(10, 2, |cluster, server| {
        cluster.kill9_all();
        server.kill9();
        cluster.restart_all();
    });
}

#[test]
fn a_client_waits_while_all_daemons_are_killed_and_restarted_and_sees_no_error() {
    let mut cluster = Cluster::start(&ClusterOptions::default());
    cluster.create_volume("disk", "64MiB");
    let server = cluster.serve("disk");
    let load = Load::start(server.connect().unwrap(), History::new(PAGES), Random::seeded(3));
    load.wait_for(200);
    cluster.kill9_all();
    cluster.restart_all();
    load.wait_for(200);
    let mut report = load.finish();
    report.result.expect("no error");
    println!("the longest request took {:.1?}", report.longest_pause);
    assert!(report.longest_pause < Duration::from_secs(30), "{:?}", report.longest_pause);
    let prefix = report.history.check(&mut server.connect().unwrap()).unwrap();
    assert_eq!(prefix.last, prefix.issued);
}
