//! What the cluster knows outlives its daemons.

use serde_json::Value;
use torus_tests::{Cluster, ClusterOptions};

const ROUNDS: usize = 10;

#[track_caller]
fn volumes(cluster: &Cluster) -> Vec<String> {
    let list = cluster.ctl_json(&["volume", "list"]);
    let volumes = list["volumes"].as_array().into_iter().flatten();
    let mut names: Vec<_> =
        volumes.filter_map(|volume| volume["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    names
}

#[test]
fn ten_times_all_daemons_are_killed_at_once_and_no_volume_is_forgotten() {
    let mut cluster = Cluster::start(&ClusterOptions::default());
    let ring: Value = cluster.ctl_json(&["ring", "get"]);
    let mut created = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("volume-{round}");
        cluster.create_volume(&name, "16MiB");
        created.push(name);
        cluster.kill9_all();
        cluster.restart_all();
        assert_eq!(volumes(&cluster), created, "round {round}");
    }
    assert_eq!(cluster.ctl_json(&["ring", "get"]), ring);
}
