//! `torusctl peer`: the daemons that store blocks.

mod add;
mod blocks;
mod remove;
mod survey;

use serde_json::json;
use torus_metadata::{GlobalMetadata, Peer, Ring};

use super::arguments::{PeerCommand, PeerName};
use super::cluster::{Cluster, statuses};
use super::report::Report;
use crate::failure::Failure;

pub(super) use survey::{Row, Survey, survey};

pub(super) async fn run(cluster: &Cluster, command: &PeerCommand) -> Result<Report, Failure> {
    match command {
        PeerCommand::List => {
            let survey = read(cluster).await?;
            Ok(Report::new(survey.text(), json!(survey)))
        }
        PeerCommand::Add { all_peers: true, .. } => add::all(cluster).await,
        PeerCommand::Add { peers, .. } => add::named(cluster, peers).await,
        PeerCommand::Remove { peers, force } => remove::run(cluster, peers, *force).await,
        PeerCommand::Forget { peer } => remove::forget(cluster, peer).await,
        PeerCommand::Blocks { peer, with_places } => blocks::run(cluster, peer, *with_places).await,
    }
}

async fn read(cluster: &Cluster) -> Result<Survey, Failure> {
    let global = cluster.global().await?;
    let (ring, peers) = (cluster.ring().await?, cluster.peers().await?);
    Ok(survey(&global, &ring, &peers, &statuses(&global, &peers).await))
}

/// What the cluster knows of its peers.
struct Known {
    global: GlobalMetadata,
    ring: Ring,
    peers: Vec<Peer>,
}

impl Known {
    async fn read(cluster: &Cluster) -> Result<Self, Failure> {
        let global = cluster.global().await?;
        Ok(Self { global, ring: cluster.ring().await?, peers: cluster.peers().await? })
    }

    /// The registered peers of this name: an address may have been given to another daemon.
    fn named(&self, name: &PeerName) -> Vec<&Peer> {
        let is_meant = |peer: &&Peer| match name {
            PeerName::Id(id) => peer.id == *id,
            PeerName::Address(address) => peer.address == address.as_str(),
        };
        self.peers.iter().filter(is_meant).collect()
    }

    /// The one registered peer of this name.
    fn one(&self, name: &PeerName) -> Result<&Peer, Failure> {
        match self.named(name)[..] {
            [peer] => Ok(peer),
            [] => Err(unknown(name)),
            ref several => {
                let uuids: Vec<_> = several.iter().map(|peer| peer.id.to_string()).collect();
                Err(Failure::failed(format!(
                    "several peers had the address {}; name one of {}",
                    text(name),
                    uuids.join(", ")
                )))
            }
        }
    }
}

fn unknown(name: &PeerName) -> Failure {
    Failure::failed(format!(
        "no peer {} is registered; 'torusctl peer list' shows the peers",
        text(name)
    ))
}

fn text(name: &PeerName) -> String {
    match name {
        PeerName::Id(id) => id.to_string(),
        PeerName::Address(address) => address.to_string(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use torus_blockstore::{BlockSpec, PeerId};
    use uuid::Uuid;

    use super::*;

    pub(in crate::ctl) use super::survey::tests::{ring, up};

    /// A peer of 20 GiB at port 40000 and its number.
    pub(in crate::ctl) fn peer(number: u16) -> Peer {
        Peer {
            id: PeerId(Uuid::from_u128(number.into())),
            address: format!("127.0.0.1:{}", 40000 + number),
            zone: String::new(),
            size_blocks: 40960,
            node: None,
        }
    }

    pub(in crate::ctl) fn global() -> GlobalMetadata {
        let block_spec = BlockSpec::default();
        GlobalMetadata { cluster: Uuid::from_u128(7), block_size: 512 << 10, block_spec }
    }
}
