//! The ring changes, and the blocks move to where it wants them.

use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, History, NbdServer, Random, wait_until};

use crate::load::Load;

const BOUND: Duration = Duration::from_secs(60);
/// Pages that are written, over and over: 16 MiB.
const PAGES: u64 = 4096;

/// Three daemons with two copies of each block, and a client that writes. There are blocks of windows
/// that are open, which stay where they are, and blocks that a checkpoint is past.
#[track_caller]
fn cluster_under_load(seed: u64) -> (Cluster, NbdServer, Load) {
    let options = ClusterOptions { replication: 2, ..ClusterOptions::default() };
    let mut cluster = Cluster::start(&options);
    cluster.create_volume("disk", "64MiB");
    let server = cluster.serve("disk");
    let mut random = Random::seeded(seed);
    let load = Load::start(server.connect().unwrap(), History::new(PAGES), Random(random.draw()));
    let history = close(server, load);
    let server = cluster.serve("disk");
    let load = Load::start(server.connect().unwrap(), history, Random(random.draw()));
    load.wait_for(500);
    (cluster, server, load)
}

/// Ends the client and closes the volume, so that no window holds blocks where they are. The
/// client must have had no error.
#[track_caller]
fn close(server: NbdServer, load: Load) -> History {
    load.wait_for(500);
    let report = load.finish();
    report.result.expect("no error");
    println!("the longest request took {:.1?}", report.longest_pause);
    server.stop();
    report.history
}

/// Waits until a block was moved, under the client's load.
#[track_caller]
fn wait_for_a_move(cluster: &Cluster) {
    wait_until("a block is moved", BOUND, || match cluster.blocks_moved() {
        0 => Err("none is"),
        _ => Ok(()),
    });
}

#[track_caller]
fn assert_all_there(cluster: &mut Cluster, mut history: History) {
    let server = cluster.serve("disk");
    let prefix = history.check(&mut server.connect().unwrap()).unwrap();
    assert_eq!(prefix.last, prefix.issued);
    server.stop();
}

#[test]
fn a_fourth_daemon_gets_its_share_while_a_client_writes() {
    let (mut cluster, server, load) = cluster_under_load(6);
    let fourth = cluster.add_daemon();
    cluster.wait_for_peers(4);
    cluster.ctl(&["peer", "add", &cluster.address(fourth)]).success();
    wait_for_a_move(&cluster);
    let history = close(server, load);

    let blocks = cluster.wait_for_balance();
    println!("{blocks} blocks");
    assert!(cluster.used(fourth) > 0, "nothing came to the fourth daemon");
    assert_all_there(&mut cluster, history);
}

#[test]
fn a_removed_peer_is_drained_while_a_client_writes_and_is_not_missed() {
    let (mut cluster, server, load) = cluster_under_load(7);
    let removed = 2;
    assert!(cluster.used(removed) > 0, "nothing to drain");
    cluster.ctl(&["peer", "remove", &cluster.address(removed)]).success();
    wait_for_a_move(&cluster);
    let history = close(server, load);

    cluster.wait_for_balance();
    assert_eq!(cluster.used(removed), 0);
    cluster.stop(removed);
    assert_all_there(&mut cluster, history);
}

#[test]
fn a_move_goes_on_after_the_daemon_that_blocks_come_to_was_killed() {
    let (mut cluster, server, load) = cluster_under_load(8);
    let fourth = cluster.add_daemon();
    cluster.wait_for_peers(4);
    cluster.ctl(&["peer", "add", &cluster.address(fourth)]).success();
    wait_for_a_move(&cluster);
    cluster.kill9(fourth);
    load.wait_for(500);
    cluster.restart(fourth);
    let history = close(server, load);

    cluster.wait_for_peers(4);
    cluster.wait_for_balance();
    assert_all_there(&mut cluster, history);
}

#[test]
fn clients_that_die_while_rings_change_lose_nothing_that_was_flushed() {
    let (mut cluster, mut server, mut load) = cluster_under_load(12);
    let mut random = Random::seeded(13);
    let fourth = cluster.add_daemon();
    cluster.wait_for_peers(4);
    for round in 0..4 {
        // The log of each round begins under one ring and ends under another.
        let step = if round % 2 == 0 { "add" } else { "remove" };
        cluster.ctl(&["peer", step, &cluster.address(fourth)]).success();
        load.wait_for(random.within(1..500));
        server.kill9();
        let mut history = load.finish().history;
        server = cluster.serve("disk");
        let mut client = server.connect().unwrap();
        history.check(&mut client).unwrap_or_else(|err| panic!("round {round}: {err}"));
        load = Load::start(client, history, Random(random.draw()));
        load.wait_for(random.within(1..500));
    }
    let history = close(server, load);
    assert_all_there(&mut cluster, history);
}

#[test]
fn a_removed_peer_is_drained_also_of_what_a_dead_client_left() {
    let (mut cluster, mut server, load) = cluster_under_load(14);
    server.kill9();
    let mut history = load.finish().history;
    let server = cluster.serve("disk");
    history.check(&mut server.connect().unwrap()).unwrap();
    server.stop();
    let removed = 2;
    cluster.ctl(&["peer", "remove", &cluster.address(removed)]).success();
    wait_until("the removed peer holds nothing", BOUND, || match cluster.used(removed) {
        0 => Ok(()),
        _ => Err(cluster.ctl(&["peer", "blocks", &cluster.address(removed), "--with-places"])),
    });
    cluster.stop(removed);
    assert_all_there(&mut cluster, history);
}
