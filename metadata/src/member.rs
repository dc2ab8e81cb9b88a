//! A daemon's side of the metadata: waits to be initialised or joins a cluster, then is a member of
//! the Raft group for the rest of its life.
//!
//! [`lifecycle`] is the task that gets it into a cluster; [`core`] answers calls; [`reign`] listens
//! to sessions while this member leads, and [`group`] changes the group; [`touch`] knows whether
//! the group is in reach.

mod admin;
mod backup;
mod core;
mod gate;
mod group;
mod lifecycle;
mod machine;
mod promotion;
#[cfg(feature = "raft")]
mod recovery;
mod reign;
#[cfg(test)]
#[cfg(feature = "raft")]
mod tests;
mod touch;

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::{mpsc, watch};
use torus_blockstore::PeerId;
use torus_dial::{Dial, Socket};
use torus_raft::RaftNode;
use uuid::Uuid;

use self::core::Core;
use crate::serve::Backend;
use crate::wire::proto::admin_server::AdminServer;
use crate::wire::{Image, write_snapshot};
use crate::{Client, FeatureLevel, MetadataService, NodeId, serve};

#[cfg(feature = "raft")]
pub use recovery::{RecoverError, Refounded, Survivor};
pub use torus_raft::{Change, Entries, Pace, Records, Rewound, Storage, Timing};

/// How long a node that was opened may take to tell the membership that it has on its disk.
const RECALL: Duration = Duration::from_millis(500);
/// How long a stopping leader looks for a successor; when all daemons stop there is none.
const HAND_OVER: Duration = Duration::from_secs(2);
/// How long a stopping member waits for calls that still use its node.
const DRAIN: Duration = Duration::from_secs(5);

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// Folder of the log and the snapshots; made if it is missing.
    pub dir: PathBuf,
    /// Where others reach this daemon, `HOST:PORT`; fixed once it is in a cluster.
    pub address: String,
    pub peer: PeerId,
    /// Addresses of members of the cluster to join; empty: wait for `init`. Without effect once the
    /// folder belongs to a cluster.
    pub join: Vec<String>,
    /// The cluster of the blocks that the daemon keeps, if it has any.
    pub blocks_of: Option<Uuid>,
}

/// What all members of a group should agree on, though nothing breaks if they do not.
#[derive(Clone, Debug)]
pub struct Tuning {
    pub timing: Timing,
    /// Entries after which a new snapshot is written, and entries kept behind it.
    pub snapshot_after: u64,
    pub keep_entries: u64,
    /// What keeps the log.
    pub storage: Arc<dyn Storage>,
    /// How other daemons are reached.
    pub dial: Dial,
    /// The commands that the member says it knows.
    pub level: FeatureLevel,
}

#[cfg(feature = "raft")]
impl Default for Tuning {
    fn default() -> Self {
        Self::on(Arc::new(torus_raft::RocksStorage))
    }
}

impl Tuning {
    /// The usual numbers, on a storage.
    pub fn on(storage: Arc<dyn Storage>) -> Self {
        let options = torus_raft::Options::on(storage, "", "");
        Self {
            timing: options.timing,
            snapshot_after: options.snapshot_after,
            keep_entries: options.keep_entries,
            storage: options.storage,
            dial: Dial::default(),
            level: FeatureLevel::OWN,
        }
    }
}

/// How far a member is.
#[derive(Clone, Debug)]
pub enum MemberState {
    /// Until somebody runs `torusctl init` on this daemon, or invites it.
    WaitingForInit,
    /// Until a member of the cluster takes it in; these are asked.
    Joining {
        members: Vec<String>,
    },
    Running {
        cluster: Uuid,
        node: NodeId,
    },
    /// It cannot go on; the process should end and be started again.
    Failed(Arc<dyn StdError + Send + Sync>),
}

/// Why a member could not be started. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error("cannot start the metadata service in {}", .dir.display())]
    Raft { dir: PathBuf, source: torus_raft::Error },
    /// The others look for it where it was when it joined.
    #[error(
        "this daemon is known to its cluster at {known}, not at {given}; use that address, or \
         remove it with 'torusctl member remove' and let it join again with an empty folder"
    )]
    Address { known: String, given: String },
}

/// Another group has gone on with the cluster's metadata: this member is of the past.
#[derive(Debug, thiserror::Error)]
#[error(
    "the metadata of this daemon is of generation {own}, and the cluster has gone on in generation \
     {present} at {address}; move {} away and start the daemon with --join {address}: it becomes a \
     new member, and keeps its blocks",
    .dir.display()
)]
pub struct FormerGeneration {
    pub own: u64,
    pub present: u64,
    pub address: String,
    pub dir: PathBuf,
}

/// A daemon's member of the metadata group.
pub struct Member {
    core: Arc<Core>,
}

impl Member {
    /// Starts on what the folder holds; without an identity in it, joins or waits.
    #[cfg(feature = "raft")]
    pub async fn start(options: MemberOptions) -> Result<Self, StartError> {
        Self::start_with(options, Tuning::default()).await
    }

    /// As [`start`](Self::start), with other times and numbers.
    pub async fn start_with(options: MemberOptions, tuning: Tuning) -> Result<Self, StartError> {
        let failed = |source| StartError::Raft { dir: options.dir.clone(), source };
        let identity = RaftNode::identity_of(&*tuning.storage, &options.dir).map_err(failed)?;
        let (orders, mailbox) = mpsc::channel(16);
        let core = Arc::new(Core::new(options.clone(), tuning, orders));
        if identity.is_some() {
            let node = RaftNode::open(core.raft_options(), core.machine()).await.map_err(failed)?;
            if let Some(known) = moved(&node, &options.address).await {
                node.shutdown().await;
                return Err(StartError::Address { known, given: options.address });
            }
            core.install(node);
            core.run();
        }
        let targets = core.targets();
        if identity.is_none() && !targets.is_empty() {
            core.set_state(MemberState::Joining { members: targets });
        }
        core.spawn(lifecycle::run(Arc::clone(&core), mailbox));
        Ok(Self { core })
    }

    /// The connections to the daemon's address without those that are lines of its group, which
    /// this serves as long as the stream lives.
    pub fn divide<S, I>(
        &self,
        incoming: I,
    ) -> impl Stream<Item = io::Result<Rewound<S>>> + use<S, I>
    where
        S: Socket + 'static,
        I: Stream<Item = io::Result<S>> + Send,
    {
        let gate = self.core.gate();
        torus_raft::divide(incoming, move || gate.transport())
    }

    /// The gRPC services, for a server of the [other connections](Self::divide).
    pub fn routes(&self) -> tonic::service::Routes {
        let backend = Arc::clone(&self.core) as Arc<dyn Backend>;
        let admin = AdminServer::new(admin::Admin(Arc::clone(&self.core)));
        tonic::service::Routes::new(serve::service(backend, self.core.members().into()))
            .add_service(admin)
            .add_service(self.core.gate())
    }

    /// How far it is, now and whenever that changes.
    pub fn state(&self) -> watch::Receiver<MemberState> {
        self.core.state()
    }

    /// The metadata service, by way of this member: writes that it cannot do itself go to the
    /// leader.
    pub fn service(&self) -> Arc<dyn MetadataService> {
        Arc::new(self.core.client())
    }

    /// The metadata service as this member alone knows it, for queries on whose answer something is
    /// deleted: no other daemon is asked, whatever cluster it may belong to by now.
    pub fn own_service(&self) -> Arc<dyn MetadataService> {
        Arc::new(self.core.client().alone())
    }

    /// As [`service`](Self::service), for calls that need another deadline.
    pub fn client(&self) -> Client {
        self.core.client()
    }

    /// The whole replicated state, as a snapshot has it: the same bytes on all members that have
    /// applied the same log.
    pub fn image(&self) -> std::io::Result<Vec<u8>> {
        let image = Image::of(&self.core.replica.read());
        let mut bytes = Vec::new();
        write_snapshot(image, &mut bytes)?;
        Ok(bytes)
    }

    /// Stops, and releases the folder. A leader hands its leadership over first, if it can.
    pub async fn shutdown(self) {
        if tokio::time::timeout(HAND_OVER, self.core.hand_over()).await.is_err() {
            tracing::debug!("no other member took the leadership over");
        }
        self.halt().await;
    }

    async fn halt(self) {
        self.core.stop().await;
        let Some(mut node) = self.core.take_node() else { return };
        let end = reign::now() + DRAIN;
        loop {
            match Arc::try_unwrap(node) {
                Ok(node) => return node.shutdown().await,
                // A call that was begun before holds it, and ends soon.
                Err(shared) if reign::now() < end => node = shared,
                Err(_) => {
                    tracing::warn!("the metadata member is still in use, so it is not closed");
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Where the group has `node`, if that is not `address`. A node that was never taken in, because
/// its start was interrupted, is known nowhere.
async fn moved(node: &RaftNode, address: &str) -> Option<String> {
    let end = reign::now() + RECALL;
    loop {
        let status = node.status();
        if let Some(known) = status.members.into_iter().find(|member| member.node == status.node) {
            return (known.address != address).then_some(known.address);
        }
        if reign::now() > end {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
