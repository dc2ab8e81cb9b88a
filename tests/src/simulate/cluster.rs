//! The cluster of one run, and the programs that use it: here, and in `node` and `metadata`, is all
//! that the simulation knows of how the product is put together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use torus_blockstore::{BlockPool, BlockRef, BlockSpec, VolumeId};
use torus_distributor::{Distributor, Follower, Volumes};
use torus_metadata::{
    Answer, Command, Error, GlobalMetadata, MetadataService, Outcome, Peer, Query, Ring, RingKind,
    RingMember, RingVersion,
};
use torus_volume::{Groups, OpenError, Options, Services, Volume, open, open_snapshot, restore};

use super::chance::Chance;
use super::groups::Cut;
use super::metadata::Hub;
use super::mutation::MutantPool;
use super::network::{FIRST_CLIENT, Host, Network, Process};
use super::node::{Node, lock};
use super::oracle::{Clock, History};
use super::peers::SimPeers;
use super::{BLOCK_SIZE, Context};

/// Clients are numbered apart from the nodes' lives.
const FIRST_PROCESS: u64 = 1 << 32;

/// Blocks of a store that no run fills.
pub(crate) const AMPLE: u64 = 1 << 12;

/// Everything that is there.
pub(crate) struct Cluster {
    pub(crate) context: Arc<Context>,
    pub(crate) network: Arc<Network>,
    pub(crate) metadata: Arc<Hub>,
    pub(crate) nodes: Vec<Arc<Node>>,
    next_process: AtomicU64,
    clients: Mutex<Vec<Arc<Process>>>,
    volumes: Mutex<Vec<Tracked>>,
    /// Shared by all clients, as if one program had all volumes open.
    groups: Groups,
    clock: Clock,
    pub(crate) cuts: Mutex<Vec<Cut>>,
}

/// A volume whose past is known.
#[derive(Clone)]
pub(crate) struct Tracked {
    /// The name that it is created under, again when it was deleted.
    pub(crate) name: String,
    /// Of the volume that is there now.
    id: Arc<Mutex<VolumeId>>,
    /// The first of its clients' hosts.
    pub(crate) host: u32,
    pub(crate) history: Arc<History>,
}

impl Cluster {
    /// A cluster with all nodes up and in the ring, and its volumes, which are empty.
    pub(crate) async fn start(context: &Arc<Context>) -> Result<Arc<Self>, Error> {
        let network = Network::new(Arc::clone(context));
        let metadata = Hub::start(context, &network);
        let chance = Chance::new(context.seed, "cluster");
        let swarm = &context.swarm;
        let numbers = 0..u32::try_from(swarm.nodes).unwrap_or(0);
        let scarce = if swarm.full { Some(chance.within(0..swarm.nodes)) } else { None };
        let nodes: Vec<_> = numbers
            .map(|index| {
                let is_scarce = scarce == Some(index.into());
                let capacity = if is_scarce { chance.within(10..60) } else { AMPLE };
                Node::new(context, &network, &metadata, index, capacity)
            })
            .collect();
        let cluster = Arc::new(Self {
            context: Arc::clone(context),
            network,
            metadata,
            nodes,
            next_process: AtomicU64::new(FIRST_PROCESS),
            clients: Mutex::default(),
            volumes: Mutex::default(),
            groups: Groups::default(),
            clock: Clock::default(),
            cuts: Mutex::default(),
        });
        cluster
            .initialise(*chance.pick(&[
                RingKind::Mod,
                RingKind::Mod,
                RingKind::Mod,
                RingKind::Ketama,
            ]))
            .await?;
        for node in &cluster.nodes {
            node.start(&cluster.nodes);
        }
        Ok(cluster)
    }

    async fn initialise(&self, kind: RingKind) -> Result<(), Error> {
        let global = GlobalMetadata {
            cluster: uuid::Uuid::from_u128(0xc105),
            block_size: BLOCK_SIZE,
            block_spec: BlockSpec::default(),
        };
        let ring = self.ring(RingVersion(1), RingKind::Empty, &[]);
        self.execute(Command::Init { global, ring }).await?;
        for node in &self.nodes {
            let peer = Peer {
                id: node.peer(),
                address: format!("node-{}:1", node.host().0),
                zone: String::new(),
                size_blocks: 100,
                node: None,
            };
            self.execute(Command::RegisterPeer(peer)).await?;
        }
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.execute(Command::SetRing(self.ring(RingVersion(2), kind, &all))).await?;
        for volume in 0..self.context.swarm.volumes {
            let (name, size) = (volume_name(volume), self.context.swarm.pages * 4096);
            self.execute(Command::CreateVolume { name, size, spec: None }).await?;
        }
        Ok(())
    }

    fn ring(&self, version: RingVersion, kind: RingKind, members: &[usize]) -> Ring {
        let member = |&index: &usize| RingMember {
            peer: self.nodes[index].peer(),
            weight: 100,
            zone: String::new(),
        };
        let members = members.iter().map(member).collect();
        Ring { version, kind, replication: self.context.swarm.replication, members }
    }

    /// Puts a ring of these nodes in place of the present one.
    pub(crate) async fn change_ring(&self, kind: RingKind, members: &[usize]) {
        let Ok(Answer::Ring { ring: Some(now), .. }) =
            self.metadata.service.query(Query::Ring(None)).await
        else {
            return;
        };
        let ring = self.ring(RingVersion(now.version.0 + 1), kind, members);
        if self.execute(Command::SetRing(ring)).await.is_ok() {
            self.context.trace.note("ring", &[now.version.0 + 1, members.len() as u64]);
            if !self.context.is_calm() {
                self.context.trace.sometimes("the ring changed");
            }
        }
    }

    /// The present ring.
    pub(crate) async fn present_ring(&self) -> Option<Ring> {
        match self.metadata.service.query(Query::Ring(None)).await {
            Ok(Answer::Ring { ring, .. }) => ring,
            _ => None,
        }
    }

    /// The volumes as the metadata has them, by name.
    pub(crate) async fn volumes(&self) -> BTreeMap<String, torus_metadata::Volume> {
        match self.metadata.service.query(Query::Volumes).await {
            Ok(Answer::Volumes { volumes, .. }) => {
                volumes.into_iter().map(|volume| (volume.name.clone(), volume)).collect()
            }
            _ => BTreeMap::new(),
        }
    }

    async fn execute(&self, command: Command) -> Result<Outcome, Error> {
        self.metadata.service.execute(command).await.map(|applied| applied.outcome)
    }

    /// The volumes whose pasts are known.
    pub(crate) fn tracked(&self) -> Vec<Tracked> {
        lock(&self.volumes).clone()
    }

    /// Begins to know the past of a volume; nothing if there is none of this name.
    pub(crate) async fn track(&self, name: String, history: History) -> Option<Tracked> {
        let id = Arc::new(Mutex::new(self.volumes().await.get(&name)?.id));
        let mut volumes = lock(&self.volumes);
        let host = 2 * u32::try_from(volumes.len()).unwrap_or(0);
        let history = Arc::new(history.timed_by(&self.clock));
        let tracked = Tracked { name, id, host, history };
        volumes.push(tracked.clone());
        Some(tracked)
    }

    /// A volume as the metadata has it, unless it was deleted.
    pub(crate) async fn present(&self, volume: &Tracked) -> Option<torus_metadata::Volume> {
        let id = *lock(&volume.id);
        self.volumes().await.into_values().find(|present| present.id == id)
    }

    /// Opens a volume under the name that it has now.
    pub(crate) async fn open(
        &self,
        client: &Client,
        volume: &Tracked,
    ) -> Result<Volume, OpenError> {
        match self.present(volume).await {
            Some(present) => client.open(&present.name).await,
            None => Err(OpenError::NoSuchVolume { name: volume.name.clone() }),
        }
    }

    /// Takes the volume that was created in place of one that was deleted for this one; whether
    /// there is one.
    pub(crate) async fn adopt(&self, volume: &Tracked) -> bool {
        let volumes = self.volumes().await;
        let Some(new) = volumes.get(&volume.name) else { return false };
        *lock(&volume.id) = new.id;
        volume.history.start_over();
        self.context.trace.sometimes("a deleted volume was created anew");
        true
    }

    /// Ends all programs of clients.
    pub(crate) fn kill_clients(&self) {
        lock(&self.clients).drain(..).for_each(|client| client.kill());
    }

    /// Starts a client's program on the host of this number.
    pub(crate) fn client(&self, host: u32) -> Client {
        let number = self.next_process.fetch_add(1, Ordering::Relaxed);
        let process = Process::new(Host(FIRST_CLIENT + host), number);
        let mut clients = lock(&self.clients);
        clients.retain(|client| !client.is_dead());
        clients.push(Arc::clone(&process));
        drop(clients);
        let (peers, diallers) =
            SimPeers::start(&self.context, &self.network, &process, &self.nodes, None);
        let metadata = self.metadata.endpoint(&process) as Arc<dyn MetadataService>;
        let follower = self.metadata.follow(&process, Volumes::Ignored);
        let pool =
            Distributor::new(BLOCK_SIZE, Arc::clone(&metadata), Arc::new(peers), follower.view());
        let pool: Arc<dyn BlockPool> = match self.context.mutation {
            Some(mutation) => Arc::new(MutantPool {
                inner: Arc::new(pool),
                mutation,
                has_recovered: AtomicBool::new(false),
            }),
            None => Arc::new(pool),
        };
        let swarm = &self.context.swarm;
        let options = Options {
            session_ttl: Duration::from_millis(swarm.ttl_ms),
            attach_timeout: Duration::from_secs(20),
            window_blocks: swarm.window_blocks,
            checkpoint_bytes: swarm.checkpoint_bytes,
            cache_bytes: swarm.cache_bytes,
            buffer_bytes: swarm.buffer_bytes,
            map_bytes: swarm.map_bytes,
            ..Options::new("clients".to_owned(), || 1)
        };
        let services = Services { pool, meta: metadata, groups: self.groups.clone() };
        Client { process, services, options, follower, _diallers: diallers }
    }
}

pub(crate) fn volume_name(number: u64) -> String {
    format!("volume-{number}")
}

/// A program that has a volume open.
pub(crate) struct Client {
    pub(crate) process: Arc<Process>,
    services: Services,
    options: Options,
    follower: Follower,
    _diallers: Vec<AbortOnDropHandle<()>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.process.kill();
    }
}

impl Client {
    /// Opens a volume, once the cluster is known.
    pub(crate) async fn open(&self, name: &str) -> Result<Volume, OpenError> {
        self.is_known().await?;
        open(self.services.clone(), name, self.options.clone()).await
    }

    /// Makes a volume what a snapshot of it holds, once the cluster is known.
    pub(crate) async fn restore(&self, name: &str, snapshot: &str) -> Result<(), OpenError> {
        self.is_known().await?;
        restore(self.services.clone(), name, snapshot, self.options.clone()).await
    }

    async fn is_known(&self) -> Result<(), OpenError> {
        let mut view = self.follower.view();
        // Several would wait for the first view at once, and be woken in any order.
        let known = view.wait_for(|view| view.ring.is_some() && view.peers.is_some());
        match timeout(Duration::from_secs(20), known).await {
            Ok(_) => Ok(()),
            Err(_) => Err(OpenError::TimedOut),
        }
    }

    /// Opens a snapshot, to be read.
    pub(crate) async fn open_snapshot(
        &self,
        name: &str,
        snapshot: &str,
    ) -> Result<Volume, OpenError> {
        open_snapshot(self.services.clone(), name, snapshot, self.options.clone()).await
    }

    /// Sends a command on the way that this program has to the metadata.
    pub(crate) async fn execute(&self, command: Command) -> Result<Outcome, Error> {
        self.services.meta.execute(command).await.map(|applied| applied.outcome)
    }

    /// Sends a command until it is answered.
    pub(crate) async fn execute_until_answered(&self, command: Command) -> Result<Outcome, Error> {
        let answered = self.services.meta.execute_until_answered(command).await;
        answered.map(|applied| applied.outcome)
    }

    /// The blocks of its own that a volume needs.
    pub(crate) async fn needed(
        &self,
        volume: &torus_metadata::Volume,
    ) -> Result<BTreeSet<BlockRef>, String> {
        let needed = torus_volume::needed_blocks(&self.services, volume).await;
        needed.map_err(|error| super::chain(&error))
    }

    /// The program dies: it says nothing more, but what it has said may still arrive.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }
}
