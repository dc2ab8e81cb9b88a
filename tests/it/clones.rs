//! Volumes that begin as snapshots of others, share what they did not change, and become independent.

use torus_tests::{Cluster, ClusterOptions, History, NbdClient, NbdServer, Random};

use crate::load::Load;
use crate::refused::assert_refused;

/// Pages that are written, over and over: 8 MiB.
const PAGES: u64 = 2048;

fn cluster() -> Cluster {
    let cluster = Cluster::start(&ClusterOptions { replication: 2, ..ClusterOptions::default() });
    cluster.create_volume("disk", "64MiB");
    cluster
}

/// Writes a hundred times and flushes; what the volume shows then.
#[track_caller]
fn fill(client: &mut NbdClient, history: &mut History, random: &mut Random) -> Vec<u64> {
    (0..100).for_each(|_| history.mixed(client, random).unwrap());
    history.flush(client).unwrap();
    let prefix = history.check(client).unwrap();
    assert_eq!(prefix.last, prefix.issued);
    history.read(client).unwrap()
}

/// What a volume or snapshot that nobody serves shows.
#[track_caller]
fn look(cluster: &mut Cluster, name: &str) -> Vec<u64> {
    let server = cluster.serve(name);
    let shown = History::new(PAGES).read(&mut server.connect().unwrap()).unwrap();
    server.stop();
    shown
}

#[test]
fn clones_of_clones_are_written_each_for_itself() {
    let mut cluster = cluster();
    let mut random = Random::seeded(41);
    let mut histories = vec![("disk".to_owned(), History::new(PAGES))];
    let mut snapshots = Vec::new();
    for generation in 1..=3u64 {
        let (name, history) = histories.last_mut().unwrap();
        let server = cluster.serve(name);
        let shown = fill(&mut server.connect().unwrap(), history, &mut random);
        let snapshot = format!("{name}@s");
        cluster.snapshot(&[&snapshot]);
        server.stop();
        let clone = format!("clone-{generation}");
        let before = cluster.copies_stored();
        cluster.ctl(&["volume", "clone", &snapshot, &clone]).success();
        assert!(cluster.copies_stored() <= before, "a clone copies nothing");
        assert_eq!(cluster.info(&clone)["parent"], snapshot.as_str());
        snapshots.push((snapshot, shown.clone()));
        histories.push((clone, History::going_on(shown, generation << 32)));
    }

    // All four at once, in one process.
    let names: Vec<String> = histories.iter().map(|(name, _)| name.clone()).collect();
    let server = cluster.serve_all(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let loads: Vec<_> = histories
        .into_iter()
        .map(|(name, history)| {
            let client = server.connect_to(&name).unwrap();
            (name, Load::mixed(client, history, Random(random.draw())))
        })
        .collect();
    loads.iter().for_each(|(_, load)| load.wait_for(200));
    let mut histories: Vec<_> =
        loads.into_iter().map(|(name, load)| (name, load.finish())).collect();
    for (name, report) in &mut histories {
        assert!(report.result.is_ok(), "{name}: {:?}", report.result);
        let prefix = report.history.check(&mut server.connect_to(name).unwrap()).unwrap();
        assert_eq!(prefix.last, prefix.issued, "{name}");
    }
    server.stop();
    for (name, shown) in &snapshots {
        assert!(look(&mut cluster, name) == *shown, "{name}");
    }
}

/// A clone with writes of its own, being served, and its parent, which is not.
fn cluster_with_clone(random: &mut Random) -> (Cluster, NbdServer, History) {
    let mut cluster = cluster();
    let mut history = History::new(PAGES);
    let server = cluster.serve("disk");
    fill(&mut server.connect().unwrap(), &mut history, random);
    let shown = fill(&mut server.connect().unwrap(), &mut history, random);
    server.stop();
    cluster.snapshot(&["disk@s"]);
    cluster.ctl(&["volume", "clone", "disk@s", "clone"]).success();
    let mut clone = History::going_on(shown, 1 << 32);
    let server = cluster.serve("clone");
    fill(&mut server.connect().unwrap(), &mut clone, random);
    (cluster, server, clone)
}

/// Deletes the parent, and looks whether the clone has everything, and the cluster nothing more.
#[track_caller]
fn check_without_parent(cluster: &mut Cluster, clone: &mut History) {
    let info = cluster.info("clone");
    assert!(info["parent"].is_null() && info["space"]["in_parents"] == 0, "{info}");
    cluster.ctl(&["volume", "delete", "--force", "disk"]).success();
    assert_eq!(cluster.volumes(), ["clone"]);
    let server = cluster.serve("clone");
    let prefix = clone.check(&mut server.connect().unwrap()).unwrap();
    assert_eq!(prefix.last, prefix.issued);
    // Two copies of 8 MiB, and as much again for garbage and maps.
    cluster.wait_for_space(2 * 2 * (8 << 20 >> 19));
    server.stop();
}

#[test]
fn a_clone_that_is_flattened_in_use_does_without_its_parent() {
    let mut random = Random::seeded(42);
    let (mut cluster, server, clone) = cluster_with_clone(&mut random);
    for refused in [
        &["snapshot", "delete", "disk@s"][..],
        &["snapshot", "delete", "--force", "disk@s"],
        &["volume", "delete", "disk"],
        &["volume", "delete", "--force", "disk"],
    ] {
        assert_refused(&cluster.ctl(refused), 1, "flatten or delete");
    }
    let load = Load::mixed(server.connect().unwrap(), clone, random);
    load.wait_for(50);
    cluster.ctl(&["volume", "flatten", "clone"]).success();
    load.wait_for(50);
    let mut report = load.finish();
    report.result.expect("no error");
    server.stop();
    check_without_parent(&mut cluster, &mut report.history);
}

#[test]
fn a_clone_that_is_flattened_unused_does_without_its_parent() {
    let mut random = Random::seeded(43);
    let (mut cluster, server, mut clone) = cluster_with_clone(&mut random);
    server.stop();
    cluster.ctl(&["volume", "flatten", "clone"]).success();
    check_without_parent(&mut cluster, &mut clone);
}

#[test]
fn what_a_clones_snapshot_shares_keeps_the_parent() {
    let mut cluster = cluster();
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    client.write(0, &[3; 1 << 20]).unwrap();
    client.flush().unwrap();
    drop(client);
    server.stop();
    cluster.snapshot(&["disk@s"]);
    cluster.ctl(&["volume", "clone", "disk@s", "clone"]).success();
    cluster.snapshot(&["clone@s"]);
    let flattened = cluster.ctl_json(&["volume", "flatten", "clone"]);
    assert_eq!(flattened["snapshots_share"], true);
    assert_refused(&cluster.ctl(&["snapshot", "delete", "disk@s"]), 1, "clone");
    cluster.ctl(&["snapshot", "delete", "clone@s"]).success();
    cluster.ctl(&["snapshot", "delete", "disk@s"]).success();
    cluster.ctl(&["volume", "delete", "disk"]).success();
    let server = cluster.serve("clone");
    assert_eq!(server.connect().unwrap().read(0, 1 << 20).unwrap(), [3; 1 << 20]);
}
