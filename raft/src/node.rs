//! One member of a Raft group: starts, writes, reads, stops.
//!
//! [`founding`] begins one anew from an old state, [`membership`] changes the group, [`reads`] batches linearizable reads, [`monitor`] watches for
//! a change of leader and for a disk that no longer works.

mod founding;
mod membership;
mod monitor;
mod reads;
mod space;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::BasicNode;
use openraft::errors::{ClientWriteError, ForwardToLeader, RaftError};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::config::{COMMAND_SIZE_MAX, Command, Metrics, Raft, TypeConfig};
use crate::error::{Cause, Error, Failure, Leader, ReadError, WriteError};
use crate::log::{Database, Founding, LogStore};
use crate::machine::StateMachine;
use crate::metrics::Watcher;
use crate::options::{Identity, Options};
use crate::snapshot::Shelf;
use crate::status::{Leadership, Status};
use crate::storage::{Blocking, Storage};
use crate::transport::{Channels, Receiver, Transport};
use crate::{apply, status};
pub use founding::{Position, Remains};
use monitor::DiskLimits;
use reads::Reads;
pub(crate) use space::Space;

/// The ID of the node that begins a group.
const FOUNDER: u64 = 1;
/// Bytes of commands that wait for their responses at a time; further writes wait at the door.
const ROOM: usize = 64 << 20;
/// What a command costs beside its bytes, about.
const COMMAND_OVERHEAD: u32 = 256;
/// A group of one elects itself at once; what takes time is the disk.
const BOOTSTRAP_PATIENCE: Duration = Duration::from_secs(30);

/// One running member of a Raft group, within the caller's tokio runtime.
///
/// Dropping it does not stop it: call [`shutdown`](Self::shutdown).
pub struct RaftNode {
    identity: Identity,
    options: Options,
    raft: Raft,
    log: LogStore,
    shelf: Arc<Shelf>,
    reads: Reads,
    room: Semaphore,
    channels: Channels,
    space: Arc<Space>,
    leadership: watch::Receiver<Leadership>,
    failure: watch::Receiver<Option<Failure>>,
    tasks: Vec<JoinHandle<()>>,
}

/// The stores of a data folder before Raft runs on them.
struct Stores {
    database: Arc<Database>,
    found: Option<(Identity, Founding)>,
}

impl RaftNode {
    /// The identity that a data folder holds, also while a node runs on it. `None` if the folder
    /// is missing or pristine.
    pub fn identity_of(
        storage: &dyn Storage,
        dir: impl AsRef<Path>,
    ) -> Result<Option<Identity>, Error> {
        Database::peek_identity(storage, &log_dir(dir.as_ref()))
    }

    /// Begins a group of one, with this node as node 1, in a pristine folder; returns once it
    /// leads and its membership is committed.
    ///
    /// If it is interrupted, [`open`](Self::open) completes it.
    pub async fn bootstrap(
        options: Options,
        cluster: [u8; 16],
        app: impl StateMachine,
    ) -> Result<Self, Error> {
        let engine = options.engine()?;
        let stores = stores(&options).await?;
        if let Some((found, _)) = stores.found {
            return Err(Error::NotPristine { dir: options.dir, found });
        }
        let identity = Identity::first(cluster, FOUNDER);
        stores.database.set_identity(identity, Founding::Bootstrap)?;
        let node = Self::start(options, engine, identity, stores.database, app).await?;
        node.initialize().await?;
        Ok(node)
    }

    /// Starts a node that is no member yet, in a pristine folder. The identity is durable before
    /// this returns; then the leader may be told to [add it](Self::add_learner).
    ///
    /// A folder that already holds this very identity, from an attempt that was interrupted, will
    /// do as well.
    pub async fn join(
        options: Options,
        identity: Identity,
        app: impl StateMachine,
    ) -> Result<Self, Error> {
        if identity.node == 0 {
            return Err(Error::ZeroNode);
        }
        let engine = options.engine()?;
        let stores = stores(&options).await?;
        match stores.found {
            None => stores.database.set_identity(identity, Founding::Join)?,
            Some((found, Founding::Join)) if found == identity => {}
            Some((found, _)) => return Err(Error::NotPristine { dir: options.dir, found }),
        }
        Self::start(options, engine, identity, stores.database, app).await
    }

    /// Starts a node again on what its folder holds.
    pub async fn open(options: Options, app: impl StateMachine) -> Result<Self, Error> {
        let engine = options.engine()?;
        if !options.storage.exists(&log_dir(&options.dir)) {
            return Err(Error::NotInitialized { dir: options.dir });
        }
        let stores = stores(&options).await?;
        let Some((identity, founding)) = stores.found else {
            return Err(Error::NotInitialized { dir: options.dir });
        };
        let node = Self::start(options, engine, identity, stores.database, app).await?;
        node.warn_of_a_new_address();
        // Nothing of a group was ever durable here, so nobody can know another one of this name.
        if founding == Founding::Bootstrap && node.log.is_empty() {
            node.initialize().await?;
        } else if node.is_sole_voter() {
            // Nobody else can be leading or voting: no reason to wait for the timeout.
            node.raft.trigger().elect(false).await.map_err(|err| start_error(err.into()))?;
        }
        Ok(node)
    }

    /// Who this node is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The service that receives what other members send; make one for each server.
    pub fn transport(&self) -> Transport {
        let receiver = Receiver::new(
            self.identity,
            self.raft.clone(),
            self.shelf.clone(),
            self.space.clone(),
            self.options.snapshot_size_max,
        );
        Transport::new(receiver)
    }

    /// Proposes a command on the leader; returns the application's response once it is applied
    /// here.
    pub async fn write(
        &self,
        command: impl Into<Bytes>,
        deadline: Duration,
    ) -> Result<Vec<u8>, WriteError> {
        let command = command.into();
        let size = command.len();
        if size > COMMAND_SIZE_MAX {
            return Err(WriteError::TooLarge { size, limit: COMMAND_SIZE_MAX });
        }
        let deadline = tokio::time::Instant::now() + deadline;
        let room = u32::try_from(size).unwrap_or(u32::MAX).saturating_add(COMMAND_OVERHEAD);
        let room = tokio::time::timeout_at(deadline, self.room.acquire_many(room)).await;
        let Ok(Ok(_room)) = room else { return Err(WriteError::Busy) };
        let write = self.raft.client_write(Command(command));
        match tokio::time::timeout_at(deadline, write).await {
            Ok(Ok(reply)) => Ok(reply.data.0),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(WriteError::NotLeader { leader: forward(to) })
            }
            Ok(Err(RaftError::Fatal(_))) => Err(WriteError::Stopped),
            Ok(Err(RaftError::APIError(_))) | Err(_) => Err(WriteError::Unknown),
        }
    }

    /// Returns once everything that was committed before the call is applied on this node. Works
    /// on every member that reaches the leader.
    pub async fn linearize(&self, deadline: Duration) -> Result<(), ReadError> {
        self.reads.linearize(deadline).await
    }

    /// What this node knows now.
    pub fn status(&self) -> Status {
        let status = Status::of(&self.metrics(), &self.options.address);
        let age = self.shelf.age();
        let snapshot_age_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        Status { snapshot_age_ms, is_full: self.space.is_low(), ..status }
    }

    /// Whether the file system of the log has no room for commands. Then none should be proposed until
    /// there is room again; what is there stays.
    pub fn is_full(&self) -> bool {
        self.space.is_low()
    }

    /// Whether another node has refused a message as not meant for it since this was asked last:
    /// it belongs to another group, or is another node, than this one believes.
    pub fn was_refused(&self) -> bool {
        self.channels.take_refused()
    }

    /// Follows who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Resolves when the node can no longer do its work: its log, its disk or its state machine
    /// failed. It never does after an orderly [`shutdown`](Self::shutdown).
    pub fn failed(&self) -> impl Future<Output = Failure> + Send + 'static {
        let mut failure = self.failure.clone();
        async move {
            if let Ok(found) = failure.wait_for(Option::is_some).await
                && let Some(found) = found.clone()
            {
                return found;
            }
            std::future::pending().await
        }
    }

    /// Takes a snapshot soon, whatever the log's length, and so lets the log be shortened.
    pub async fn compact(&self) -> Result<(), WriteError> {
        self.raft.trigger().snapshot().await.map_err(|_| WriteError::Stopped)
    }

    /// Stops, and releases the folder. What is asked of the node afterwards is refused.
    pub async fn shutdown(&self) {
        for task in &self.tasks {
            task.abort();
        }
        self.reads.stop();
        if let Err(err) = self.raft.shutdown().await {
            tracing::warn!(error = %err, "Raft did not stop in order");
        }
        let log = self.log.clone();
        if self.shelf.blocking().run(move || log.close()).await.is_err() {
            tracing::error!("closing the log panicked");
        }
    }

    fn metrics(&self) -> Metrics {
        Watcher::of(&self.raft).now()
    }

    /// The other members go on using the address in the membership.
    fn warn_of_a_new_address(&self) {
        let metrics = self.metrics();
        let known = metrics.membership_config.get_node(&self.identity.node);
        if let Some(known) = known.filter(|known| known.addr != self.options.address) {
            let now = &self.options.address;
            tracing::warn!(known = %known.addr, %now, "the group knows this node by another address");
        }
    }

    fn is_sole_voter(&self) -> bool {
        let metrics = self.metrics();
        metrics.membership_config.voter_ids().eq([self.identity.node])
    }

    async fn start(
        options: Options,
        engine: openraft::Config,
        identity: Identity,
        database: Arc<Database>,
        app: impl StateMachine,
    ) -> Result<Self, Error> {
        let dir = snapshot_dir(&options.dir);
        let pace = options.storage.pace();
        let how = Blocking::of(&*options.storage);
        let open = move || -> Result<(LogStore, Arc<Shelf>), Error> {
            let shelf = Shelf::open(&dir, identity.group, how)?;
            let log = LogStore::open(database, pace)?;
            no_gap(&log, &shelf)?;
            Ok((log, Arc::new(shelf)))
        };
        let (log, shelf) = blocking(how, open).await?;
        let space = Space::of(options.dir.clone());
        let machine = apply::Machine::new(Box::new(app), shelf.clone(), space.clone());
        let channels = Channels::new(identity, options.dial.clone(), how);
        let raft =
            Raft::new(identity.node, Arc::new(engine), channels.clone(), log.clone(), machine)
                .await
                .map_err(|err| start_error(err.into()))?;
        let (leadership, leadership_task) = monitor::leadership(&raft);
        let (failure, failure_task) = monitor::failure(&raft, log.health(), DiskLimits::default());
        let reads = Reads::start(raft.clone(), channels.clone());
        let tasks = vec![leadership_task, failure_task, space.watch(), log.keep_noting()];
        let room = Semaphore::new(ROOM);
        Ok(Self {
            identity,
            options,
            raft,
            log,
            shelf,
            reads,
            room,
            channels,
            space,
            leadership,
            failure,
            tasks,
        })
    }

    /// Writes the first membership, this node alone, and waits until it leads.
    async fn initialize(&self) -> Result<(), Error> {
        let node = BasicNode { addr: self.options.address.clone() };
        let members = std::collections::BTreeMap::from([(self.identity.node, node)]);
        self.raft.initialize(members).await.map_err(|err| start_error(err.into()))?;
        let mut leadership = self.leadership();
        let mut metrics = Watcher::of(&self.raft);
        let ready = async {
            leadership.wait_for(|now| now.is_self).await.map_err(|_| Error::Stopped)?;
            // `initialize` returns once the membership is on disk; until it is committed, a
            // change would be refused.
            let settled = |now: &Metrics| {
                now.membership_config.log_id() == now.committed_membership_config.log_id()
            };
            metrics.wait_for(settled).await.ok_or(Error::Stopped)?;
            Ok(())
        };
        let waited_ms = u64::try_from(BOOTSTRAP_PATIENCE.as_millis()).unwrap_or(u64::MAX);
        tokio::time::timeout(BOOTSTRAP_PATIENCE, ready)
            .await
            .map_err(|_| Error::Bootstrap { waited_ms })?
    }
}

fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

fn snapshot_dir(dir: &Path) -> PathBuf {
    dir.join("snapshot")
}

fn start_error(source: Cause) -> Error {
    Error::Start { source }
}

/// Opens the log of a folder, which locks it, and says whose it is. Data without an identity is
/// an error: the identity is the first thing that is ever written.
async fn stores(options: &Options) -> Result<Stores, Error> {
    let (storage, dir) = (options.storage.clone(), options.dir.clone());
    let open = move || {
        let database = Arc::new(Database::open(&*storage, &log_dir(&dir))?);
        let found = database.identity()?;
        if found.is_none() && !(database.is_pristine()? && Shelf::is_pristine(&snapshot_dir(&dir)))
        {
            return Err(Error::Foreign { dir });
        }
        sync_entries(&dir)?;
        Ok(Stores { database, found })
    };
    blocking(Blocking::of(&*options.storage), open).await
}

/// Makes the folders themselves durable: a node that lost its folder in a power cut would seem
/// pristine and forget its votes.
fn sync_entries(dir: &Path) -> Result<(), Error> {
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        let path = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        std::fs::File::open(path)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| Error::Io { path: path.to_owned(), source })?;
    }
    Ok(())
}

/// Refuses a log whose beginning is in no snapshot: openraft would start it on an empty state.
fn no_gap(log: &LogStore, shelf: &Shelf) -> Result<(), Error> {
    let snapshot = shelf.last_index();
    match log.purged() {
        Some(purged) if snapshot.is_none_or(|snapshot| snapshot < purged.index) => {
            Err(Error::SnapshotMissing { purged: purged.index, snapshot })
        }
        _ => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(
    how: Blocking,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    how.run(work).await.map_err(|err| start_error(err.into()))?
}

fn forward(to: ForwardToLeader<TypeConfig>) -> Option<Leader> {
    let (node, at) = to.leader_id.zip(to.leader_node)?;
    Some(Leader { node, address: at.addr })
}

/// The leader as the metrics have it.
fn known_leader(raft: &Raft) -> Option<Leader> {
    status::leader(&Watcher::of(raft).now())
}

#[cfg(test)]
#[cfg(feature = "rocksdb")]
mod tests;
