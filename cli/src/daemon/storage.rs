//! The daemon's blocks: opened once the cluster's block size is known, then served to peers and
//! kept where the ring wants them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use torus_blockstore::{BlockStore, FenceTable, Mfile, MfileOptions, PeerIdentity};
use torus_distributor::{
    Follower, Identity, PeerServer, Peers, Rebalancer, Request, Response, Status, TcpPeers, Volumes,
};
use torus_metadata::{
    Answer, Command, Error as MetadataError, MetadataService, Peer, Query, Refusal, RingMember,
    RingVersion,
};
use uuid::Uuid;

use crate::failure::Failure;

/// Between attempts while the group has no leader.
const RETRY: Duration = Duration::from_millis(200);

/// What a store is opened with.
pub(super) struct StorageOptions {
    pub(super) identity: Arc<PeerIdentity>,
    /// Bytes for blocks.
    pub(super) size: u64,
    pub(super) address: String,
    pub(super) zone: String,
    pub(super) auto_join: bool,
}

/// The store, once it is open.
pub(super) struct Storage {
    open: OnceLock<Open>,
}

struct Open {
    server: PeerServer,
    store: Arc<dyn BlockStore>,
    _follower: Follower,
    _rebalancer: Rebalancer,
}

/// `--size` is less than a block.
#[derive(Debug, thiserror::Error)]
#[error("--size {size} is less than one block, {block_size} bytes")]
struct TooSmall {
    size: u64,
    block_size: u32,
}

impl Storage {
    pub(super) fn new() -> Self {
        Self { open: OnceLock::new() }
    }

    /// Opens the store, registers the peer, and begins to serve and to follow the ring. Blocks are
    /// deleted only on the word of `own_metadata`, the member of this process.
    pub(super) async fn open(
        &self,
        options: StorageOptions,
        cluster: Uuid,
        metadata: Arc<dyn MetadataService>,
        own_metadata: Arc<dyn MetadataService>,
        data: &Handle,
    ) -> Result<(), Failure> {
        options.identity.check_cluster(cluster)?;
        // A store that exists says what its blocks are like: its blocks must not wait for a quorum.
        let block_size = match Mfile::block_size_of(&options.identity)? {
            Some(block_size) => block_size,
            None => block_size_of(&metadata).await,
        };
        if options.size < u64::from(block_size) {
            return Err(TooSmall { size: options.size, block_size }.into());
        }
        let peer = options.identity.peer();
        let identity = Arc::clone(&options.identity);
        let size = options.size;
        // Reserving and reading a large store takes its time.
        let opened = tokio::task::spawn_blocking(move || {
            let capacity_bytes = size - size % u64::from(block_size);
            let options = MfileOptions { block_size, capacity_bytes };
            let store = Mfile::open(Arc::clone(&identity), options)?;
            // The store makes the folder of both.
            let fences = FenceTable::open(&identity)?;
            identity.bind_cluster(cluster)?;
            Ok::<_, torus_blockstore::Error>((fences, store))
        });
        let (fences, store) = opened.await??;
        let store: Arc<dyn BlockStore> = Arc::new(store);
        let capacity = store.geometry().capacity_blocks;

        // What serves the data path lives on its own runtime.
        let entered = data.enter();
        let whose = Identity { cluster, peer };
        let server = PeerServer::start(whose, Arc::clone(&store), Arc::new(fences))?;
        let follower = Follower::start(Arc::clone(&metadata), Volumes::Followed);
        let peers: Arc<dyn Peers> =
            Arc::new(TcpPeers::start(cluster, block_size, Some(server.clone()), follower.view()));
        let rebalancer = Rebalancer::start(&server, peers, own_metadata, follower.view());
        drop(entered);
        let open = Open { server, store, _follower: follower, _rebalancer: rebalancer };
        // The member's life reaches this point once.
        let _ = self.open.set(open);

        let registration = Peer {
            id: peer,
            address: options.address,
            zone: options.zone,
            size_blocks: capacity,
            node: None,
        };
        execute(&metadata, Command::RegisterPeer(registration.clone())).await?;
        tracing::info!(%peer, capacity_blocks = capacity, block_size, "storing blocks");
        if options.auto_join {
            join_ring(&metadata, registration).await?;
        }
        Ok(())
    }

    /// Serves a connection of the data protocol until it ends.
    pub(super) async fn serve(&self, stream: TcpStream) {
        let Some(open) = self.open.get() else {
            tracing::debug!("a peer called before the store was open");
            return;
        };
        if let Err(error) = open.server.serve_connection(stream).await {
            tracing::debug!(%error, "a data connection broke");
        }
    }

    /// Figures of the store; `None` until it is open.
    pub(super) fn status(&self) -> Option<Status> {
        let open = self.open.get()?;
        match open.server.keeper().execute(Request::Status) {
            Ok((Response::Status(status), _)) => Some(status),
            other => unreachable!("Status answered {other:?}"),
        }
    }

    /// Refuses further requests and makes all that was stored durable.
    pub(super) fn close(&self) {
        let Some(open) = self.open.get() else { return };
        open.server.shut_down();
        if let Err(error) = open.store.sync() {
            tracing::error!(%error, "the last sync of the store failed");
        }
    }
}

/// The block size of the cluster, asked for until there is an answer.
async fn block_size_of(metadata: &Arc<dyn MetadataService>) -> u32 {
    loop {
        match metadata.query(Query::Cluster).await {
            Ok(Answer::Cluster { global: Some(global), .. }) => return global.block_size,
            Ok(_) => {}
            Err(error) => tracing::info!(%error, "waiting for the cluster's metadata"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Puts a command through, however long the group needs to find a leader.
async fn execute(
    metadata: &Arc<dyn MetadataService>,
    command: Command,
) -> Result<(), MetadataError> {
    loop {
        match metadata.execute(command.clone()).await {
            Ok(_) => return Ok(()),
            Err(MetadataError::Refused(refusal)) => return Err(refusal.into()),
            Err(error) => tracing::info!(%error, "waiting for the metadata service"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Adds this peer to the ring, unless it is there.
async fn join_ring(metadata: &Arc<dyn MetadataService>, peer: Peer) -> Result<(), Failure> {
    loop {
        let mut ring = match metadata.query(Query::Ring(None)).await {
            Ok(Answer::Ring { ring: Some(ring), .. }) => ring,
            Ok(_) | Err(_) => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        if ring.members.iter().any(|member| member.peer == peer.id) {
            return Ok(());
        }
        let (weight, zone) = (peer.size_blocks, peer.zone.clone());
        ring.members.push(RingMember { peer: peer.id, weight, zone });
        ring.version = RingVersion(ring.version.0 + 1);
        match execute(metadata, Command::SetRing(ring)).await {
            Ok(()) => {
                tracing::info!("joined the ring");
                return Ok(());
            }
            // Somebody else changed the ring meanwhile.
            Err(MetadataError::Refused(Refusal::RingVersion { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
