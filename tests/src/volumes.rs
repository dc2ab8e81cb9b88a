//! Volumes as `torusctl` shows and changes them.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, rows};
use crate::wait::wait_until;

/// Within it the space of what nobody needs any more is back at the peers.
const SPACE_BOUND: Duration = Duration::from_secs(60);

impl Cluster {
    /// What the cluster says of a volume.
    #[track_caller]
    pub fn info(&self, volume: &str) -> Value {
        self.ctl_json(&["volume", "info", volume])
    }

    /// The names of all volumes.
    #[track_caller]
    pub fn volumes(&self) -> Vec<String> {
        names(rows(self.ctl_json(&["volume", "list"]), "volumes"))
    }

    /// The names of the snapshots of a volume.
    #[track_caller]
    pub fn snapshots(&self, volume: &str) -> Vec<String> {
        names(rows(self.ctl_json(&["snapshot", "list", volume]), "snapshots"))
    }

    /// Takes snapshots, all of one instant.
    #[track_caller]
    pub fn snapshot(&self, names: &[&str]) {
        self.ctl(&[&["snapshot", "create"], names].concat()).success();
    }

    /// Blocks in the stores of all daemons, each copy counted.
    #[track_caller]
    pub fn copies_stored(&self) -> usize {
        let members = self.members();
        let list = |address| rows(self.ctl_json(&["peer", "blocks", address]), "blocks").len();
        members.split(',').map(list).sum()
    }

    /// Waits until the daemons hold at most so many copies of blocks.
    #[track_caller]
    pub fn wait_for_space(&self, copies: usize) {
        wait_until(&format!("the peers hold at most {copies} copies"), SPACE_BOUND, || {
            let stored = self.copies_stored();
            if stored <= copies { Ok(()) } else { Err(stored) }
        });
    }
}

fn names(rows: Vec<Value>) -> Vec<String> {
    rows.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect()
}
