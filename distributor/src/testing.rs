//! A cluster in one process for tests: peers with stores in memory that fail on demand, behind
//! sockets on loopback, and a metadata service in memory.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use torus_blockstore::{
    BlockIndex, BlockKind, BlockRef, BlockSpec, BlockState, BlockStore, Error, FenceTable,
    Geometry, INodeIndex, PeerId, Seal, Temp, VolumeId,
};
use torus_metadata::{
    Answer, Command, GlobalMetadata, MetadataService, Peer, Query, Ring, RingKind, RingMember,
    RingVersion, TempService,
};
use uuid::Uuid;

use crate::lock::lock;
use crate::{Distributor, Follower, Identity, PeerServer, Placer, TcpPeers, Volumes};

pub(crate) const BLOCK_SIZE: u32 = 64 * 1024;
pub(crate) const CLUSTER: Uuid = Uuid::from_u128(0xc105);

pub(crate) fn peer(number: u128) -> PeerId {
    PeerId::decode(number.to_be_bytes())
}

pub(crate) fn volume(number: u64) -> VolumeId {
    VolumeId::new(number).unwrap()
}

/// Data block `index` of volume 1.
pub(crate) fn block(index: u64) -> BlockRef {
    BlockRef {
        volume: volume(1),
        kind: BlockKind::Data,
        inode: INodeIndex(1),
        index: BlockIndex(index),
    }
}

/// A store in memory with switches for what a disk does on its bad days.
pub(crate) struct Rigged {
    temp: Temp,
    /// Blocks that look as after a crash.
    pub(crate) unsettled: Mutex<BTreeSet<BlockRef>>,
    /// Blocks whose bytes come back wrong.
    pub(crate) rotten: Mutex<BTreeSet<BlockRef>>,
    pub(crate) sync_fails: AtomicBool,
    /// Held while the disk takes its time.
    pub(crate) slow_disk: Mutex<()>,
}

impl Rigged {
    pub(crate) fn new(capacity_blocks: u64) -> Arc<Self> {
        Arc::new(Self {
            temp: Temp::new(Geometry { block_size: BLOCK_SIZE, capacity_blocks }),
            unsettled: Mutex::default(),
            rotten: Mutex::default(),
            sync_fails: AtomicBool::new(false),
            slow_disk: Mutex::default(),
        })
    }

    fn is_unsettled(&self, block: BlockRef) -> bool {
        lock(&self.unsettled).contains(&block)
    }
}

impl BlockStore for Rigged {
    fn geometry(&self) -> Geometry {
        self.temp.geometry()
    }

    fn used_blocks(&self) -> u64 {
        self.temp.used_blocks()
    }

    fn append(&self, block: BlockRef, offset: u32, data: &[u8]) -> Result<(), Error> {
        if self.is_unsettled(block) {
            return Err(Error::Unsettled { block });
        }
        self.temp.append(block, offset, data)
    }

    fn read(&self, block: BlockRef, offset: u32, buffer: &mut [u8]) -> Result<(), Error> {
        if let (true, Some(BlockState::Open { length })) =
            (self.is_unsettled(block), self.temp.state(block))
        {
            // Behind what was written lies what was there before.
            let end = (length.saturating_sub(offset) as usize).min(buffer.len());
            buffer[end..].fill(0xee);
            return self.temp.read(block, offset, &mut buffer[..end]);
        }
        self.temp.read(block, offset, buffer)?;
        if lock(&self.rotten).contains(&block)
            && let Some(first) = buffer.first_mut()
        {
            *first ^= 1;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        drop(lock(&self.slow_disk));
        if self.sync_fails.load(Ordering::Relaxed) {
            return Err(Error::Poisoned { path: "rigged".into() });
        }
        self.temp.sync()
    }

    fn seal(&self, block: BlockRef, seal: Seal) -> Result<(), Error> {
        if self.is_unsettled(block) && lock(&self.rotten).contains(&block) {
            return Err(Error::Checksum { block, expected: seal.crc, found: !seal.crc });
        }
        self.temp.seal(block, seal)?;
        lock(&self.unsettled).remove(&block);
        Ok(())
    }

    fn put(&self, block: BlockRef, data: &[u8]) -> Result<(), Error> {
        self.temp.put(block, data)?;
        lock(&self.unsettled).remove(&block);
        lock(&self.rotten).remove(&block);
        Ok(())
    }

    fn state(&self, block: BlockRef) -> Option<BlockState> {
        let state = self.temp.state(block)?;
        Some(if self.is_unsettled(block) { BlockState::Unsettled } else { state })
    }

    fn delete(&self, block: BlockRef) -> Result<bool, Error> {
        lock(&self.unsettled).remove(&block);
        lock(&self.rotten).remove(&block);
        self.temp.delete(block)
    }

    fn list(&self, after: Option<BlockRef>, limit: usize) -> Vec<(BlockRef, BlockState)> {
        let blocks = self.temp.list(after, limit).into_iter();
        let state = |state, block| {
            if self.is_unsettled(block) { BlockState::Unsettled } else { state }
        };
        blocks.map(|(block, found)| (block, state(found, block))).collect()
    }
}

/// A peer with its store and, while it runs, its server.
pub(crate) struct Node {
    pub(crate) peer: PeerId,
    pub(crate) store: Arc<Rigged>,
    pub(crate) fences: Arc<FenceTable>,
    pub(crate) server: PeerServer,
    pub(crate) address: String,
    acceptor: Option<AbortOnDropHandle<()>>,
}

impl Node {
    pub(crate) async fn start(number: u128, capacity_blocks: u64) -> Self {
        let store = Rigged::new(capacity_blocks);
        let fences = Arc::new(FenceTable::in_memory());
        let identity = Identity { cluster: CLUSTER, peer: peer(number) };
        let server =
            PeerServer::start(identity, Arc::clone(&store) as _, Arc::clone(&fences)).unwrap();
        let mut node = Self {
            peer: identity.peer,
            store,
            fences,
            server,
            address: "127.0.0.1:0".to_owned(),
            acceptor: None,
        };
        node.listen().await;
        node
    }

    async fn listen(&mut self) {
        let listener = TcpListener::bind(&self.address).await.unwrap();
        self.address = listener.local_addr().unwrap().to_string();
        let server = self.server.clone();
        self.acceptor = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                // A connection that breaks is what some tests are about.
                tokio::spawn(async move { server.serve_connection(stream).await.ok() });
            }
        })));
    }

    /// Ends the node's connections and takes no more.
    pub(crate) async fn kill(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.abort();
            // The port is free when the task is gone.
            acceptor.await.ok();
        }
        self.server.shut_down();
    }

    /// The node again, on what it stored; its open blocks are unsettled.
    pub(crate) async fn restart(&mut self) {
        for (block, state) in self.store.list(None, usize::MAX) {
            if matches!(state, BlockState::Open { .. }) {
                lock(&self.store.unsettled).insert(block);
            }
        }
        let (store, fences) = (Arc::clone(&self.store), Arc::clone(&self.fences));
        self.server = PeerServer::start(self.server.identity(), store, fences).unwrap();
        self.listen().await;
    }

    pub(crate) fn holds(&self, block: BlockRef) -> bool {
        self.store.state(block).is_some()
    }
}

/// Peers 1, 2, … and a client.
pub(crate) struct Cluster {
    pub(crate) metadata: Arc<TempService>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) pool: Distributor,
    pub(crate) follower: Follower,
}

impl Cluster {
    /// `count` peers, of which the first `members` make up the ring.
    pub(crate) async fn start(count: u128, members: u128, replication: u32) -> Self {
        Self::with_capacity(count, members, replication, 1000).await
    }

    /// As [`start`](Self::start), with room for so many blocks on each peer.
    pub(crate) async fn with_capacity(
        count: u128,
        members: u128,
        replication: u32,
        capacity_blocks: u64,
    ) -> Self {
        let metadata = Arc::new(TempService::new());
        let mut nodes = Vec::new();
        for number in 1..=count {
            nodes.push(Node::start(number, capacity_blocks).await);
        }
        let global = GlobalMetadata {
            cluster: CLUSTER,
            block_size: BLOCK_SIZE,
            block_spec: BlockSpec::default(),
        };
        let ring = Ring {
            version: RingVersion(1),
            kind: RingKind::Empty,
            replication,
            members: Vec::new(),
        };
        metadata.execute(Command::Init { global, ring }).await.unwrap();
        for node in &nodes {
            register(&metadata, node).await;
        }
        set_ring(&metadata, 2, replication, 1..=members).await;
        let service = Arc::clone(&metadata) as Arc<dyn MetadataService>;
        let follower = Follower::start(Arc::clone(&service), Volumes::Ignored);
        let peers = TcpPeers::start(CLUSTER, BLOCK_SIZE, None, follower.view());
        let pool = Distributor::new(BLOCK_SIZE, service, Arc::new(peers), follower.view());
        Self { metadata, nodes, pool, follower }
    }

    pub(crate) fn node(&self, peer: PeerId) -> &Node {
        self.nodes.iter().find(|node| node.peer == peer).unwrap()
    }

    pub(crate) fn node_mut(&mut self, peer: PeerId) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.peer == peer).unwrap()
    }

    /// The present ring as the metadata has it.
    pub(crate) async fn ring(&self) -> Placer {
        let Answer::Ring { ring: Some(ring), .. } =
            self.metadata.query(Query::Ring(None)).await.unwrap()
        else {
            panic!("no ring");
        };
        Placer::new(&ring)
    }
}

pub(crate) async fn register(metadata: &TempService, node: &Node) {
    let peer = Peer {
        id: node.peer,
        address: node.address.clone(),
        zone: String::new(),
        size_blocks: 1000,
        node: None,
    };
    metadata.execute(Command::RegisterPeer(peer)).await.unwrap();
}

pub(crate) async fn set_ring(
    metadata: &TempService,
    version: u64,
    replication: u32,
    members: impl IntoIterator<Item = u128>,
) {
    let member = |number| RingMember { peer: peer(number), weight: 1000, zone: String::new() };
    let ring = Ring {
        version: RingVersion(version),
        kind: RingKind::Ketama,
        replication,
        members: members.into_iter().map(member).collect(),
    };
    metadata.execute(Command::SetRing(ring)).await.unwrap();
}

/// Waits for a state, level-triggered.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let looking = async {
            let mut look = tokio::time::interval(Duration::from_millis(5));
            while !is_so() {
                look.tick().await;
            }
        };
        assert!(timeout(Duration::from_secs(20), looking).await.is_ok(), "{what}, at {caller}");
    }
}
