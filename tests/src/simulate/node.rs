//! A storage node: a store on a simulated disk behind the product's rules, served the way a daemon
//! serves it. Appends are applied as they arrive; what reads or changes more is done a little later,
//! in any order; one task syncs for everybody who waits.
//!
//! A crash takes the process, and of what was not synced any part.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use torus_blockstore::{
    BlockStore, Disk, Error, FenceTable, Mfile, MfileOptions, PeerId, PeerIdentity, SimDisk,
};
use torus_distributor::{
    Due, Follower, Keeper, Peers, Rebalancer, Refusal, Request, Response, StoreWork, Usage, Volumes,
};
use torus_metadata::MetadataService;

use super::chance::Chance;
use super::connection::{Answer, Connection};
use super::metadata::Hub;
use super::mutation::{Mutation, RetryingDisk};
use super::network::{Host, Network, Process};
use super::peers::SimPeers;
use super::{BLOCK_SIZE, Context};

const DATA_DIR: &str = "/data";

/// How a node's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine loses power: what was not synced may be lost.
    Power,
    /// The process is killed: the system keeps what it wrote.
    Kill,
}

pub(crate) struct Node {
    context: Arc<Context>,
    network: Arc<Network>,
    metadata: Arc<Hub>,
    chance: Chance,
    index: u32,
    peer: PeerId,
    state: Mutex<State>,
}

struct State {
    disk: SimDisk,
    life: Option<Arc<Life>>,
    lives: u64,
    capacity_blocks: u64,
    /// Nothing that needs the disk goes on until then.
    hung_until: Instant,
    /// How much longer than usual the disk takes.
    slowness: u32,
    /// Decides what the next crash leaves, if it is not left to chance.
    crash_seed: Option<u64>,
}

/// One run of the node's process.
pub(crate) struct Life {
    alive: AtomicBool,
    process: Arc<Process>,
    keeper: Arc<Keeper>,
    fences: Arc<FenceTable>,
    store: Arc<Mfile>,
    disk: SimDisk,
    waiting: mpsc::UnboundedSender<(Response, Asker)>,
    connections: Mutex<Vec<Weak<Connection>>>,
    company: Mutex<Option<Company>>,
}

/// What runs beside the server and ends with it.
struct Company {
    _follower: Follower,
    _rebalancer: Rebalancer,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// Whom an answer goes to.
pub(crate) enum Asker {
    Remote { connection: Weak<Connection>, id: u64 },
    Local(oneshot::Sender<Answer>),
    Nobody,
}

impl Asker {
    fn answer(self, answer: Result<Response, Refusal>) {
        match self {
            Self::Remote { connection, id } => {
                if let Some(connection) = connection.upgrade() {
                    connection.answer(id, answer);
                }
            }
            Self::Local(reply) => drop(reply.send(answer.map_err(Into::into))),
            Self::Nobody => {}
        }
    }
}

impl Life {
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    pub(crate) fn connected(&self, connection: &Arc<Connection>) {
        lock(&self.connections).push(Arc::downgrade(connection));
    }

    pub(crate) fn usage(&self) -> Usage {
        self.keeper.usage()
    }

    pub(crate) fn store(&self) -> &Arc<Mfile> {
        &self.store
    }

    fn end(&self, end: End) {
        self.alive.store(false, Ordering::Relaxed);
        self.process.kill();
        lock(&self.company).take();
        for connection in lock(&self.connections).drain(..).filter_map(|it| it.upgrade()) {
            match end {
                End::Kill => connection.close(),
                // Nobody is left to say that the connection is gone.
                End::Power => {
                    tokio::spawn(async move {
                        sleep(super::connection::SILENCE_LIMIT).await;
                        connection.close();
                    });
                }
            }
        }
    }
}

impl Node {
    pub(crate) fn new(
        context: &Arc<Context>,
        network: &Arc<Network>,
        metadata: &Arc<Hub>,
        index: u32,
        capacity_blocks: u64,
    ) -> Arc<Self> {
        let chance = Chance::new(context.seed, &format!("node {index}"));
        let disk = SimDisk::new(chance.draw(), 1 << 40);
        let state = State {
            disk,
            life: None,
            lives: 0,
            capacity_blocks,
            hung_until: Instant::now(),
            slowness: 1,
            crash_seed: None,
        };
        Arc::new(Self {
            context: Arc::clone(context),
            network: Arc::clone(network),
            metadata: Arc::clone(metadata),
            chance,
            index,
            peer: PeerId::decode((u128::from(index) + 1).to_be_bytes()),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn host(&self) -> Host {
        Host(self.index)
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    pub(crate) fn life(&self) -> Option<Arc<Life>> {
        lock(&self.state).life.clone()
    }

    /// Whether its process is not the first.
    pub(crate) fn has_restarted(&self) -> bool {
        lock(&self.state).lives > 1
    }

    pub(crate) fn disk(&self) -> SimDisk {
        lock(&self.state).disk.clone()
    }

    pub(crate) fn set_capacity(&self, blocks: u64) {
        lock(&self.state).capacity_blocks = blocks;
    }

    pub(crate) fn capacity(&self) -> u64 {
        lock(&self.state).capacity_blocks
    }

    pub(crate) fn hang(&self, time: Duration) {
        lock(&self.state).hung_until = Instant::now() + time;
    }

    /// From now on every crash leaves what this seed says: 0 nothing that was not synced, 1 all.
    pub(crate) fn leave_to(&self, crash_seed: u64) {
        lock(&self.state).crash_seed = Some(crash_seed);
    }

    pub(crate) fn slow_down(&self, slowness: u32) {
        lock(&self.state).slowness = slowness;
    }

    /// Starts the process, if it does not run; whether it runs now.
    pub(crate) fn start(self: &Arc<Self>, nodes: &[Arc<Self>]) -> bool {
        let mut state = lock(&self.state);
        if state.life.is_some() {
            return true;
        }
        state.lives += 1;
        let number = u64::from(self.index) * 1_000_000 + state.lives;
        let opened = self.open(&state.disk, state.capacity_blocks);
        let (store, fences) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.context.trace.note("node does not start", &[self.index.into(), number]);
                if self.context.trace.told() {
                    println!("{}", super::chain(&error));
                }
                drop(state);
                self.stop(End::Power);
                return false;
            }
        };
        let dyn_store = Arc::clone(&store) as Arc<dyn BlockStore>;
        let fences = Arc::new(fences);
        let keeper = Arc::new(Keeper::new(dyn_store, Arc::clone(&fences)));
        let process = Process::new(self.host(), number);
        let (waiting, queue) = mpsc::unbounded_channel();
        let life = Arc::new(Life {
            alive: AtomicBool::new(true),
            process: Arc::clone(&process),
            keeper: Arc::clone(&keeper),
            fences,
            store,
            disk: state.disk.clone(),
            waiting,
            connections: Mutex::default(),
            company: Mutex::new(None),
        });
        state.life = Some(Arc::clone(&life));
        drop(state);
        let local = (self.peer, Arc::clone(self), Arc::downgrade(&life));
        let (peers, mut tasks) =
            SimPeers::start(&self.context, &self.network, &process, nodes, Some(local));
        let metadata = self.metadata.endpoint(&process) as Arc<dyn MetadataService>;
        let follower = self.metadata.follow(&process, Volumes::Followed);
        let rebalancer = Rebalancer::start_over(
            self.peer,
            keeper,
            Arc::new(peers) as Arc<dyn Peers>,
            metadata,
            follower.view(),
            StoreWork::InPlace,
        );
        tasks.push(AbortOnDropHandle::new(tokio::spawn(
            Arc::clone(self).sync_for_all(Arc::clone(&life), queue),
        )));
        *lock(&life.company) =
            Some(Company { _follower: follower, _rebalancer: rebalancer, _tasks: tasks });
        self.context.trace.note("node starts", &[self.index.into(), number]);
        true
    }

    fn open(
        &self,
        disk: &SimDisk,
        capacity_blocks: u64,
    ) -> Result<(Arc<Mfile>, FenceTable), Error> {
        let shared: Arc<dyn Disk> = match self.context.planted(Mutation::FailedSyncRetried) {
            true => Arc::new(RetryingDisk(disk.shared())),
            false => disk.shared(),
        };
        let identity = Arc::new(PeerIdentity::open(shared, Path::new(DATA_DIR), self.peer)?);
        let capacity_bytes = capacity_blocks * u64::from(BLOCK_SIZE);
        let options = MfileOptions { block_size: BLOCK_SIZE, capacity_bytes };
        let store = Mfile::open(Arc::clone(&identity), options)?;
        let fences = FenceTable::open(&identity)?;
        Ok((Arc::new(store), fences))
    }

    /// Ends the process, if it runs; a disk without power has it again.
    pub(crate) fn stop(&self, end: End) {
        let mut state = lock(&self.state);
        let life = state.life.take();
        if life.is_some() {
            let number = u64::from(end == End::Kill);
            self.context.trace.note("node stops", &[self.index.into(), number]);
        }
        state.disk = match end {
            End::Kill if life.is_none() => return,
            End::Kill => state.disk.after_kill(),
            End::Power => {
                if state.disk.unsynced_sectors() > 0 {
                    self.context.trace.sometimes("a crash met un-synced sectors");
                }
                // The extremes, that all or nothing of it is there, are likelier than chance.
                let drawn = *self.chance.pick(&[0, 1, 2, 2, 2]);
                let drawn = if drawn == 2 { self.chance.draw() } else { drawn };
                let disk = state.disk.after_crash(state.crash_seed.unwrap_or(drawn));
                state.disk.power_off();
                disk
            }
        };
        drop(state);
        if let Some(life) = life {
            life.end(end);
        }
    }

    /// Carries a request out where and when a daemon would.
    pub(crate) fn dispatch(self: &Arc<Self>, life: &Arc<Life>, request: Request, asker: Asker) {
        if !life.is_alive() {
            return;
        }
        let in_place = match &request {
            Request::Append(_) | Request::Suspect { .. } | Request::Status => true,
            Request::Read { .. } => self.network.coin(),
            Request::State(query) => !query.verify,
            _ => false,
        };
        if in_place {
            return self.carry_out(life, request, asker);
        }
        let (node, life) = (Arc::clone(self), Arc::clone(life));
        tokio::spawn(async move {
            node.disk_time(0..4).await;
            if life.is_alive() {
                node.carry_out(&life, request, asker);
            }
        });
    }

    /// Waits as long as the disk takes for something now.
    async fn disk_time(&self, usual_ms: std::ops::Range<u64>) {
        let (slowness, hung_until) = {
            let state = lock(&self.state);
            (state.slowness, state.hung_until)
        };
        sleep(self.chance.millis(usual_ms) * slowness).await;
        sleep_until(hung_until).await;
    }

    fn carry_out(self: &Arc<Self>, life: &Arc<Life>, request: Request, asker: Asker) {
        let request = self.context.twist(&life.fences, request);
        let early = self.context.answers_early(&request);
        if self.context.trace.told() {
            self.tell(&request);
        }
        let numbers = [self.index.into(), super::op_number(&request)];
        let result = life.keeper.execute(request);
        if life.disk.is_off() {
            // The power went while the disk worked.
            return self.stop(End::Power);
        }
        self.context.trace.note("executed", &[numbers[0], numbers[1], u64::from(result.is_ok())]);
        match result {
            Ok((response, Due::Now)) => asker.answer(Ok(response)),
            Ok((response, Due::AfterSync)) if early => {
                asker.answer(Ok(response.clone()));
                let _ = life.waiting.send((response, Asker::Nobody));
            }
            Ok((response, Due::AfterSync)) => {
                let _ = life.waiting.send((response, asker));
            }
            Err(refusal) => {
                self.count_refusal(&refusal);
                asker.answer(Err(refusal));
            }
        }
    }

    /// Prints what changes more than the end of a block.
    fn tell(&self, request: &Request) {
        let node = self.index;
        match request {
            Request::Delete { epoch, blocks } => {
                let blocks: Vec<_> = blocks.iter().map(ToString::to_string).collect();
                println!("node {node}: epoch {epoch} deletes {}", blocks.join(", "));
            }
            Request::Seal { block, epoch, seal } => {
                println!("node {node}: epoch {epoch} seals {block} at {}", seal.length);
            }
            Request::Put { block, epoch, data } => {
                println!("node {node}: epoch {epoch} puts {} bytes as {block}", data.len());
            }
            Request::Fence { epoch, .. } => println!("node {node}: epoch {epoch} fences"),
            Request::Fetch { block } => println!("node {node}: fetch of {block}"),
            _ => {}
        }
    }

    fn count_refusal(&self, refusal: &Refusal) {
        let counter = match refusal {
            Refusal::Fenced { .. } => "a stale writer was refused",
            Refusal::Full => "a store was full",
            Refusal::Corrupt => "a peer found its copy corrupt",
            Refusal::Disk => "a disk refused",
            Refusal::Unsettled => "an unsettled copy was refused",
            Refusal::OtherRing { .. } => "a peer followed another ring",
            _ => return,
        };
        self.context.trace.sometimes(counter);
    }

    async fn sync_for_all(
        self: Arc<Self>,
        life: Arc<Life>,
        mut queue: mpsc::UnboundedReceiver<(Response, Asker)>,
    ) {
        while let Some(first) = queue.recv().await {
            self.disk_time(0..6).await;
            if !life.is_alive() {
                return;
            }
            let mut batch = vec![first];
            while let Ok(more) = queue.try_recv() {
                batch.push(more);
            }
            let synced = life.keeper.sync();
            if life.disk.is_off() {
                return self.stop(End::Power);
            }
            let numbers = [self.index.into(), batch.len() as u64, u64::from(synced.is_ok())];
            self.context.trace.note("synced", &numbers);
            if synced.is_err() {
                self.context.trace.sometimes("a sync failed");
            }
            for (response, asker) in batch {
                asker.answer(synced.clone().map(|()| response));
            }
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
