//! `torusctl ring`, and how rings are changed.

mod change;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use torus_blockstore::{BlockIndex, BlockRef, INodeIndex, PeerId, VolumeId};
use torus_distributor::Placer;
use torus_metadata::{Command, GlobalMetadata, Peer, Ring, RingKind, Volume};

use super::arguments::{Kind, Locate, ManualChange, RingCommand};
use super::cluster::Cluster;
use super::rehearsal;
use super::report::{Report, count, table};
use crate::failure::Failure;
use crate::size::Bytes;

pub(super) use change::{with_peers, without_peers};

pub(super) async fn run(cluster: &Cluster, command: &RingCommand) -> Result<Report, Failure> {
    match command {
        RingCommand::Get => {
            let (ring, peers) = (cluster.ring().await?, cluster.peers().await?);
            let global = cluster.global().await?;
            Ok(Report::new(describe(&ring, &peers, &global), facts(&ring, &peers)))
        }
        RingCommand::SetReplication { replication } => set_replication(cluster, *replication).await,
        RingCommand::ManualChange(options) => manual_change(cluster, options).await,
        RingCommand::Locate(block) => locate(cluster, block).await,
    }
}

async fn set_replication(cluster: &Cluster, replication: u32) -> Result<Report, Failure> {
    rehearsal::init(512 << 10, RingKind::Ketama, replication)
        .map_err(|refusal| Failure::usage(format!("replication {replication}: {refusal}")))?;
    let ring = cluster.change_ring(|ring| change::with_replication(ring, replication)).await?;
    changed(cluster, &ring).await
}

async fn manual_change(cluster: &Cluster, options: &ManualChange) -> Result<Report, Failure> {
    let peers_named = options.all_peers || !options.uuids.is_empty();
    match options.kind {
        Kind::Empty if peers_named => {
            return Err(Failure::usage("a ring of type empty has no peers"));
        }
        Kind::Single if options.uuids.len() != 1 && !options.all_peers => {
            return Err(Failure::usage("a ring of type single has one peer: give --uuids UUID"));
        }
        Kind::Mod | Kind::Ketama if !peers_named => {
            return Err(Failure::usage("which peers? give --uuids UUID,… or --all-peers"));
        }
        _ => {}
    }
    let (present, peers) = (cluster.ring().await?, cluster.peers().await?);
    let chosen = match options.all_peers {
        true => peers.iter().collect(),
        false => registered(&peers, &options.uuids)?,
    };
    let replication = options.replication.unwrap_or(present.replication);
    let ring = change::replace(&present, options.kind.into(), replication, &chosen);
    rehearsal::ring(&ring).map_err(|refusal| Failure::usage(refusal.to_string()))?;
    // Not repeated when another change comes first: whoever writes a ring by hand has looked at the
    // present one.
    cluster.execute(Command::SetRing(ring.clone())).await?;
    changed(cluster, &ring).await
}

fn registered<'a>(peers: &'a [Peer], ids: &[PeerId]) -> Result<Vec<&'a Peer>, Failure> {
    let find = |id: &PeerId| {
        peers.iter().find(|peer| peer.id == *id).ok_or_else(|| {
            Failure::failed(format!(
                "no peer {id} is registered; 'torusctl peer list' shows the peers"
            ))
        })
    };
    ids.iter().map(find).collect()
}

async fn changed(cluster: &Cluster, ring: &Ring) -> Result<Report, Failure> {
    let peers = cluster.peers().await?;
    Ok(Report::new(format!("{}\n", summary(ring)), facts(ring, &peers)))
}

async fn locate(cluster: &Cluster, block: &Locate) -> Result<Report, Failure> {
    let block = BlockRef {
        volume: block.volume_id,
        kind: block.kind.into(),
        inode: INodeIndex(block.inode),
        index: BlockIndex(block.index),
    };
    let (ring, peers) = (cluster.ring().await?, cluster.peers().await?);
    let copies = copies(&cluster.volumes().await?, block.volume);
    let places = Placer::new(&ring).places(&block, &BTreeSet::new(), copies);
    let line = |id: &PeerId| format!("{id}  {}\n", address(&peers, *id).unwrap_or("-"));
    let text = places.iter().map(line).collect();
    let uuids: Vec<_> = places.iter().map(PeerId::to_string).collect();
    Ok(Report::new(text, json!({ "ring": ring.version.0, "peers": uuids })))
}

/// How many peers hold the blocks of a volume, if it asks for another number than the ring.
pub(super) fn copies(volumes: &[Volume], id: VolumeId) -> Option<u32> {
    volumes.iter().find(|volume| volume.id == id)?.block_spec.copies()
}

/// One sentence about a ring.
pub(super) fn summary(ring: &Ring) -> String {
    format!(
        "The ring is at version {}: {}, replication {}, {}.",
        ring.version,
        kind_name(ring.kind),
        ring.replication,
        count(ring.members.len(), "peer")
    )
}

/// A ring as JSON.
pub(super) fn facts(ring: &Ring, peers: &[Peer]) -> Value {
    let member = |member: &torus_metadata::RingMember| {
        json!({
            "uuid": member.peer.to_string(),
            "address": address(peers, member.peer),
            "weight": member.weight,
            "zone": member.zone,
        })
    };
    json!({
        "version": ring.version.0,
        "kind": kind_name(ring.kind),
        "replication": ring.replication,
        "members": ring.members.iter().map(member).collect::<Vec<_>>(),
    })
}

fn describe(ring: &Ring, peers: &[Peer], global: &GlobalMetadata) -> String {
    let head = format!(
        "Ring: {}\nVersion: {}\nReplication: {}\nPeers: {}\n",
        kind_name(ring.kind),
        ring.version,
        ring.replication,
        ring.members.len()
    );
    if ring.members.is_empty() {
        return head;
    }
    let row = |member: &torus_metadata::RingMember| {
        let size = member.weight.saturating_mul(global.block_size.into());
        vec![
            member.peer.to_string(),
            address(peers, member.peer).unwrap_or("-").to_owned(),
            Bytes(size).to_string(),
            member.zone.clone(),
        ]
    };
    let rows = ring.members.iter().map(row);
    format!("{head}\n{}", table(&["UUID", "ADDRESS", ">WEIGHT", "ZONE"], rows))
}

fn address(peers: &[Peer], id: PeerId) -> Option<&str> {
    peers.iter().find(|peer| peer.id == id).map(|peer| &*peer.address)
}

/// A ring's kind, as it is written.
pub(super) fn kind_name(kind: RingKind) -> &'static str {
    match kind {
        RingKind::Empty => "empty",
        RingKind::Single => "single",
        RingKind::Mod => "mod",
        RingKind::Ketama => "ketama",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::peer::tests::{global, peer};
    use expect_test::expect;
    use torus_metadata::RingVersion;

    #[test]
    fn a_ring_is_shown_with_its_members() {
        let empty = Ring {
            version: RingVersion(1),
            kind: RingKind::Empty,
            replication: 2,
            members: vec![],
        };
        let peers = [peer(1), peer(2)];
        let ring = with_peers(&empty, &[&peers[0], &peers[1]]).unwrap();
        expect![[r#"
            Ring: ketama
            Version: 2
            Replication: 2
            Peers: 2

            UUID                                  ADDRESS            WEIGHT  ZONE
            00000000-0000-0000-0000-000000000001  127.0.0.1:40001  20.0 GiB
            00000000-0000-0000-0000-000000000002  -                20.0 GiB
        "#]]
        .assert_eq(&describe(&ring, &peers[..1], &global()));
        expect![[r#"{"kind":"ketama","members":[{"address":"127.0.0.1:40001","uuid":"00000000-0000-0000-0000-000000000001","weight":40960,"zone":""},{"address":null,"uuid":"00000000-0000-0000-0000-000000000002","weight":40960,"zone":""}],"replication":2,"version":2}"#]]
        .assert_eq(&facts(&ring, &peers[..1]).to_string());
        expect!["The ring is at version 1: empty, replication 2, 0 peers."]
            .assert_eq(&summary(&empty));
    }
}
