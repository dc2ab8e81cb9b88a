//! A client's way to the cluster: its metadata and its blocks.

use std::sync::Arc;
use std::time::Duration;

use torus_blockstore::BlockPool;
use torus_distributor::{Distributor, Follower, Peers, TcpPeers, Volumes};
use torus_metadata::{
    Answer, Client, Error as MetadataError, GlobalMetadata, MetadataService, Query,
};
use torus_volume::{Groups, Services};

use crate::failure::Failure;

/// How long the first answer may take.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The cluster as a process uses it that opens volumes.
pub struct Connection {
    pub services: Services,
    /// What `init` wrote.
    pub global: GlobalMetadata,
    _follower: Follower,
}

impl Connection {
    /// Connects to the cluster that any of the daemons at `addresses` belongs to.
    pub async fn open(addresses: Vec<String>) -> Result<Self, Failure> {
        let tried = addresses.join(",");
        let client = Client::new(addresses);
        let global = match client.with_deadline(FIRST_ANSWER).query(Query::Cluster).await? {
            Answer::Cluster { global: Some(global), .. } => global,
            _ => return Err(MetadataError::NotInitialised { address: tried }.into()),
        };
        let meta: Arc<dyn MetadataService> = Arc::new(client);
        let follower = Follower::start(Arc::clone(&meta), Volumes::Ignored);
        let peers: Arc<dyn Peers> =
            Arc::new(TcpPeers::start(global.cluster, global.block_size, None, follower.view()));
        let pool: Arc<dyn BlockPool> = Arc::new(Distributor::new(
            global.block_size,
            Arc::clone(&meta),
            peers,
            follower.view(),
        ));
        let services = Services { pool, meta, groups: Groups::default() };
        Ok(Self { services, global, _follower: follower })
    }
}

/// Who we are, for those who find a volume in use.
pub fn owner(program: &str) -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{program} on {}, process {}", host.as_deref().unwrap_or("?"), std::process::id())
}
