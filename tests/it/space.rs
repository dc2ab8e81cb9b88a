//! Space that nobody needs any more comes back.

use std::time::Duration;

use torus_tests::{Cluster, ClusterOptions, wait_until};

const BOUND: Duration = Duration::from_secs(60);
const MEBIBYTES: u64 = 32;

/// What each daemon's blocks take up.
#[track_caller]
fn used(cluster: &Cluster) -> [u64; 3] {
    [0, 1, 2].map(|index| cluster.used(index))
}

#[test]
fn a_deleted_volume_gives_all_its_space_back_also_where_a_daemon_was_down() {
    let mut cluster = Cluster::start(&ClusterOptions::default());
    cluster.create_volume("disk", "64MiB");
    let server = cluster.serve("disk");
    let mut client = server.connect().unwrap();
    for mebibyte in 0..MEBIBYTES {
        client.write(mebibyte << 20, &[9; 1 << 20]).unwrap();
    }
    client.flush().unwrap();
    drop(client);
    let in_use = cluster.ctl(&["volume", "delete", "disk"]);
    assert_eq!(in_use.code, 1, "{in_use}");
    assert!(in_use.stderr.contains("in use by"), "{in_use}");
    server.stop();
    let before = used(&cluster);
    assert!(before.iter().all(|&used| used >= MEBIBYTES << 20), "{before:?}");

    cluster.kill9(2);
    cluster.ctl(&["volume", "delete", "disk"]).success();
    cluster.restart(2);
    cluster.wait_for_peers(3);
    wait_until("no daemon holds a block", BOUND, || {
        let used = used(&cluster);
        if used == [0; 3] { Ok(()) } else { Err(format!("{used:?}")) }
    });
}
