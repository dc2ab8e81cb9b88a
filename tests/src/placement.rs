//! Which peers hold which blocks, by their own word, and which the ring wants to hold them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, rows};
use crate::wait::wait_until;

const BOUND: Duration = Duration::from_secs(60);
/// Misplaced blocks that a failed wait shows.
const SHOWN: usize = 5;

/// The copies of one block, by the UUIDs of the peers.
#[derive(Debug, Default)]
struct Copies {
    places: BTreeSet<String>,
    holders: BTreeSet<String>,
    /// Those that do not say that their copy is complete.
    unsealed: BTreeSet<String>,
}

impl Copies {
    fn are_in_place(&self) -> bool {
        self.places == self.holders && self.unsealed.is_empty()
    }

    /// Whether those that have to hold the block do, if anybody has all of it.
    fn are_enough(&self) -> bool {
        let mut sealed = self.holders.difference(&self.unsealed).peekable();
        sealed.peek().is_none() || sealed.count() >= self.places.len()
    }
}

impl Cluster {
    /// Waits until every block is sealed at each place that the ring names, and nowhere else; how
    /// many blocks that are. All daemons have to run.
    #[track_caller]
    pub fn wait_for_balance(&self) -> usize {
        self.wait_for_copies("every block is at its places and nowhere else", Copies::are_in_place)
    }

    /// Waits until no block that some peer has sealed lacks a copy.
    #[track_caller]
    pub fn wait_for_repair(&self) {
        self.wait_for_copies("every block has all its copies", Copies::are_enough);
    }

    #[track_caller]
    fn wait_for_copies(&self, what: &str, is_well: fn(&Copies) -> bool) -> usize {
        wait_until(what, BOUND, || {
            let blocks = self.copies();
            let bad: Vec<_> = blocks.iter().filter(|(_, copies)| !is_well(copies)).collect();
            if bad.is_empty() {
                return Ok(blocks.len());
            }
            let shown = &bad[..bad.len().min(SHOWN)];
            Err(format!("{} of {} are not: {shown:#?}", bad.len(), blocks.len()))
        })
    }

    /// What the daemons hold. Not of one moment: a block that moves may be seen twice, or not.
    #[track_caller]
    fn copies(&self) -> BTreeMap<String, Copies> {
        let mut blocks: BTreeMap<String, Copies> = BTreeMap::new();
        for address in self.members().split(',') {
            let list = self.ctl_json(&["peer", "blocks", address, "--with-places"]);
            let peer = text(&list["peer"]);
            for block in rows(list, "blocks") {
                let [volume, kind, inode, index] =
                    ["volume", "kind", "inode", "index"].map(|field| &block[field]);
                let copies = blocks.entry(format!("{volume} {kind} {inode}/{index}")).or_default();
                copies.holders.insert(peer.clone());
                copies.places =
                    block["places"].as_array().into_iter().flatten().map(text).collect();
                if block["state"] != "sealed" {
                    copies.unsealed.insert(peer.clone());
                }
            }
        }
        blocks
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
