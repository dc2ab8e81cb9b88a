//! `torusctl status`: the whole cluster on one screen, and what to do about what is wrong.

mod advice;

use std::time::Duration;

use serde_json::{Value, json};
use torus_metadata::{GlobalMetadata, Ring, Volume};

use super::cluster::{Cluster, statuses};
use super::member::{self, Group};
use super::peer::{Survey, survey};
use super::report::{Report, count, percent};
use super::ring::kind_name;
use crate::failure::Failure;
use crate::size::Bytes;

/// How long a group without a leader is waited for: long enough for an election.
const PATIENCE: Duration = Duration::from_secs(4);

/// The advice where all seems well and nothing is confirmed.
const UNCONFIRMED: &str = "the metadata service does not answer in time, though its members do: ask again in some seconds";

/// What only a group with a leader tells.
struct Store {
    global: GlobalMetadata,
    ring: Ring,
    peers: Survey,
    volumes: Vec<Volume>,
}

pub(super) use advice::on_group;

/// What is known of the store.
enum Known {
    /// The word of a majority.
    Now(Store),
    /// What one member knew last.
    Once(Store),
    Nothing(Failure),
}

pub(super) async fn run(cluster: &Cluster) -> Result<Report, Failure> {
    let group = member::read(cluster).await?;
    let known = match Store::read(&cluster.with_deadline(PATIENCE)).await {
        Ok(store) if cluster.is_stale => Known::Once(store),
        Ok(store) => Known::Now(store),
        // Whoever asks for what is old gets no better.
        Err(failure) => match Store::read(&cluster.stale()).await {
            Ok(store) => Known::Once(store),
            Err(_) => Known::Nothing(failure),
        },
    };
    Ok(report(&group, &known))
}

impl Store {
    async fn read(cluster: &Cluster) -> Result<Self, Failure> {
        let global = cluster.global().await?;
        let (ring, peers) = (cluster.ring().await?, cluster.peers().await?);
        let peers = survey(&global, &ring, &peers, &statuses(&global, &peers).await);
        Ok(Self { global, ring, peers, volumes: cluster.volumes().await? })
    }

    /// Bytes that the volumes promise to their clients.
    fn promised(&self) -> u64 {
        self.volumes.iter().fold(0, |sum, volume| sum.saturating_add(volume.size))
    }

    fn in_use(&self) -> usize {
        self.volumes.iter().filter(|volume| volume.lock.is_some()).count()
    }

    fn up(&self) -> usize {
        self.peers.peers.iter().filter(|row| row.is_up()).count()
    }
}

fn report(group: &Group, known: &Known) -> Report {
    let mut advice = advice::on_group(group);
    let mut text = group.head();
    let mut json = json!(group);
    match known {
        Known::Now(store) | Known::Once(store) => {
            let is_old = matches!(known, Known::Once(_));
            if is_old {
                text.push_str("(as one member knew it last; no majority confirms it)\n");
                if advice.is_empty() {
                    advice.push(UNCONFIRMED.to_owned());
                }
            } else {
                advice.extend(advice::on_store(store));
            }
            text.push_str(&body(store));
            json["is_old"] = is_old.into();
            json["block_size"] = store.global.block_size.into();
            json["block_spec"] = store.global.block_spec.to_string().into();
            json["peers"] = peers_json(store);
            json["ring"] = ring_json(store);
            json["volumes"] = json!({
                "count": store.volumes.len(),
                "in_use": store.in_use(),
                "size": store.promised(),
            });
        }
        Known::Nothing(failure) => {
            // The line of a group without a leader says what this would.
            if advice.is_empty() {
                advice.push(failure.line());
            }
            text.push_str("Peers     unknown: the metadata service does not answer\n");
        }
    }
    text.push_str(&format!("\n{}", member::rows(group)));
    if !advice.is_empty() {
        text.push_str("\nTo do:\n");
        for line in &advice {
            text.push_str(&format!("- {line}\n"));
        }
    }
    json["problems"] = advice.into();
    Report::new(text, json)
}

fn body(store: &Store) -> String {
    let peers = &store.peers;
    let balance = match (peers.balanced, peers.blocks_to_move) {
        (true, _) => "balanced".to_owned(),
        (false, 0) => "not balanced yet".to_owned(),
        (false, left) => format!("{left} blocks to move"),
    };
    format!(
        "Peers     {} of {} up, {} of {} used ({:.2}%)\n\
         Ring      version {}, {}, replication {}, {}, {balance}\n\
         Volumes   {}, {} in use, {} in all\n",
        store.up(),
        peers.peers.len(),
        Bytes(peers.used),
        Bytes(peers.size),
        percent(peers.used, peers.size),
        store.ring.version,
        kind_name(store.ring.kind),
        store.ring.replication,
        count(store.ring.members.len(), "peer"),
        store.volumes.len(),
        store.in_use(),
        Bytes(store.promised()),
    )
}

fn peers_json(store: &Store) -> Value {
    json!({
        "count": store.peers.peers.len(),
        "up": store.up(),
        "size": store.peers.size,
        "used": store.peers.used,
    })
}

fn ring_json(store: &Store) -> Value {
    json!({
        "version": store.ring.version.0,
        "kind": kind_name(store.ring.kind),
        "replication": store.ring.replication,
        "peers": store.ring.members.len(),
        "balanced": store.peers.balanced,
        "blocks_to_move": store.peers.blocks_to_move,
    })
}

#[cfg(test)]
mod tests;
