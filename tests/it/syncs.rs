//! What a flush costs the disks, and that it reaches them.

use torus_tests::{Cluster, ClusterOptions};

const FLUSHES: usize = 50;
/// Syncs that may come on top: of windows, seals and what was written before.
const MORE: usize = 10;

#[test]
fn each_flush_was_one_sync_on_every_replica_when_it_is_acknowledged() {
    let mut cluster =
        Cluster::start(&ClusterOptions { count_syncs: true, ..ClusterOptions::default() });
    cluster.create_volume("disk", "64MiB");
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    client.write(0, &[1; 4096]).unwrap();
    client.flush().unwrap();

    let daemons = 0..3;
    let before: Vec<_> = daemons.clone().map(|index| cluster.syncs(index)).collect();
    let mut offset = 0;
    for flush in 1..=FLUSHES {
        let earlier: Vec<_> = daemons.clone().map(|index| cluster.syncs(index)).collect();
        offset += 4096;
        client.write(offset, &[2; 4096]).unwrap();
        client.flush().unwrap();
        for index in daemons.clone() {
            let syncs = cluster.syncs(index);
            assert!(syncs > earlier[index], "daemon {index} did not sync for flush {flush}");
        }
    }
    for index in daemons {
        let syncs = cluster.syncs(index) - before[index];
        println!("daemon {index}: {syncs} syncs for {FLUSHES} flushes");
        assert!(syncs <= FLUSHES + MORE, "daemon {index}: {syncs} syncs for {FLUSHES} flushes");
    }
}
