//! All metadata, for people and for programs.

use serde_json::{Value, json};
use torus_metadata::{
    Answer, Backup, GlobalMetadata, Head, Peer, Query, Ring, RingVersion, Session, State, Volume,
    Window,
};

use crate::clock::utc;
use crate::ctl::report::table;
use crate::ctl::ring::kind_name;
use crate::ctl::volume::show;
use crate::size::Bytes;

pub(super) fn volumes(state: &State) -> Vec<Volume> {
    match state.answer(&Query::Volumes) {
        Answer::Volumes { volumes, .. } => volumes,
        other => unreachable!("the volumes, not {other:?}"),
    }
}

fn lost(state: &State) -> Vec<std::ops::RangeInclusive<u64>> {
    match state.answer(&Query::Volumes) {
        Answer::Volumes { lost, .. } => lost,
        other => unreachable!("the volumes, not {other:?}"),
    }
}

fn peers(state: &State) -> Vec<Peer> {
    match state.answer(&Query::Peers) {
        Answer::Peers { peers, .. } => peers,
        other => unreachable!("the peers, not {other:?}"),
    }
}

fn ring(state: &State, version: Option<RingVersion>) -> Option<Ring> {
    match state.answer(&Query::Ring(version)) {
        Answer::Ring { ring, .. } => ring,
        other => unreachable!("a ring, not {other:?}"),
    }
}

/// The present ring, and those that open windows name.
fn rings(state: &State, volumes: &[Volume]) -> Vec<Ring> {
    let named = volumes.iter().flat_map(|volume| &volume.windows).map(|window| window.ring);
    let mut rings: Vec<Ring> = named.filter_map(|version| ring(state, Some(version))).collect();
    rings.extend(ring(state, None));
    rings.sort_by_key(|ring| ring.version);
    rings.dedup_by_key(|ring| ring.version);
    rings
}

fn cluster(state: &State) -> (Option<GlobalMetadata>, u64) {
    match state.answer(&Query::Cluster) {
        Answer::Cluster { global, volumes_minted, .. } => (global, volumes_minted),
        other => unreachable!("the cluster, not {other:?}"),
    }
}

/// Adds everything to what is known of the backup.
pub(super) fn facts(state: &State, to: &mut Value) {
    let (global, volumes_minted) = cluster(state);
    if let Some(global) = global {
        to["block_size"] = global.block_size.into();
        to["block_spec"] = global.block_spec.to_string().into();
    }
    let volumes = volumes(state);
    to["volumes_minted"] = volumes_minted.into();
    to["lost_volumes"] = lost(state).iter().map(|ids| json!([ids.start(), ids.end()])).collect();
    to["rings"] = rings(state, &volumes).iter().map(ring_facts).collect();
    to["peers"] = peers(state).iter().map(peer_facts).collect();
    to["sessions"] = state.sessions().map(session_facts).collect();
    to["volumes"] = volumes.iter().map(|volume| volume_facts(volume, &volumes)).collect();
}

fn ring_facts(ring: &Ring) -> Value {
    let members = ring.members.iter().map(|member| {
        json!({ "peer": member.peer.to_string(), "weight": member.weight, "zone": member.zone })
    });
    json!({
        "version": ring.version.0,
        "type": kind_name(ring.kind),
        "replication": ring.replication,
        "members": members.collect::<Vec<_>>(),
    })
}

fn peer_facts(peer: &Peer) -> Value {
    json!({
        "id": peer.id.to_string(),
        "address": peer.address,
        "zone": peer.zone,
        "size_blocks": peer.size_blocks,
        "member": peer.node.map(|node| node.0),
    })
}

fn session_facts(session: &Session) -> Value {
    json!({ "id": session.id.0, "owner": session.owner, "ttl_ms": session.ttl_ms })
}

/// What `volume list` tells, and what its writer has committed.
fn volume_facts(volume: &Volume, volumes: &[Volume]) -> Value {
    let mut facts = show::facts(volume, volumes);
    facts["is_clean"] = volume.is_clean.into();
    facts["lock"] = volume.lock.as_ref().map_or(
        Value::Null,
        |lock| json!({ "session": lock.session.0, "epoch": lock.epoch.0, "owner": lock.owner }),
    );
    facts["head"] = volume.head.as_ref().map_or(Value::Null, head_facts);
    facts["windows"] = volume.windows.iter().map(window_facts).collect();
    facts["retired"] = volume.retired.iter().map(head_facts).collect();
    facts["asks"] = volume.asks.iter().map(|ask| json!(ask.id.0)).collect();
    for (facts, snapshot) in
        facts["snapshots"].as_array_mut().into_iter().flatten().zip(&volume.snapshots)
    {
        facts["head"] = head_facts(&snapshot.head);
    }
    facts
}

fn head_facts(head: &Head) -> Value {
    json!({
        "volume": head.volume.get(),
        "inode": head.inode.0,
        "blocks": head.blocks,
        "epoch": head.epoch.0,
        "position": {
            "inode": head.position.inode.0,
            "block": head.position.block.0,
            "offset": head.position.offset,
        },
    })
}

fn window_facts(window: &Window) -> Value {
    json!({
        "epoch": window.epoch.0,
        "inode": window.inode.0,
        "ring": window.ring.0,
        "first": window.first.0,
        "count": window.count,
        "excluded": window.excluded.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

pub(super) fn text(backup: &Backup) -> String {
    let (state, info) = (backup.state(), &backup.info);
    let volumes = volumes(state);
    let mut text = format!(
        "Cluster: {}\nGeneration: {}\nRevision: {}\nFeature level: {}\nRead: {}\n",
        info.cluster,
        info.generation,
        info.revision,
        info.level,
        utc(info.created_ms),
    );
    if let (Some(global), minted) = cluster(state) {
        text += &format!(
            "Block size: {} bytes\nBlock spec: {}\nVolume IDs given: up to {minted}\n",
            global.block_size, global.block_spec,
        );
    }
    for ids in lost(state) {
        text +=
            &format!("Volume IDs of which nothing is known: {} to {}\n", ids.start(), ids.end());
    }
    for ring in rings(state, &volumes) {
        text += &format!(
            "\nRing {}: {}, {} copies\n",
            ring.version,
            kind_name(ring.kind),
            ring.replication
        );
        let members = ring.members.iter();
        let row = |member: &torus_metadata::RingMember| {
            vec![member.peer.to_string(), member.weight.to_string(), member.zone.clone()]
        };
        text += &table(&["PEER", ">WEIGHT", "ZONE"], members.map(row));
    }
    text += "\nPeers\n";
    text += &table(
        &["ID", "ADDRESS", "ZONE", ">BLOCKS", ">MEMBER"],
        peers(state).iter().map(|peer| {
            let member = peer.node.map_or_else(|| "-".to_owned(), |node| node.to_string());
            let blocks = peer.size_blocks.to_string();
            vec![peer.id.to_string(), peer.address.clone(), peer.zone.clone(), blocks, member]
        }),
    );
    text += "\nSessions\n";
    text += &table(
        &[">ID", ">TTL MS", "OWNER"],
        state.sessions().map(|session| {
            vec![session.id.to_string(), session.ttl_ms.to_string(), session.owner.clone()]
        }),
    );
    text += "\nVolumes\n";
    text += &table(
        &[">ID", "NAME", ">SIZE", ">EPOCH", "HEAD", ">WINDOWS", ">SNAPSHOTS", "IN USE BY"],
        volumes.iter().map(volume_row),
    );
    text
}

fn volume_row(volume: &Volume) -> Vec<String> {
    let head = volume.head.as_ref().map_or_else(
        || "none".to_owned(),
        |head| format!("{}:{} at {}", head.volume, head.inode.0, head.position.block.0),
    );
    vec![
        volume.id.to_string(),
        volume.name.clone(),
        Bytes(volume.size).to_string(),
        volume.epoch.to_string(),
        head,
        volume.windows.len().to_string(),
        volume.snapshots.len().to_string(),
        volume.lock.as_ref().map_or_else(|| "-".to_owned(), |lock| lock.owner.clone()),
    ]
}
