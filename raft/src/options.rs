//! What a node is told when it starts.

use std::path::PathBuf;
use std::sync::Arc;

use torus_dial::Dial;

use crate::error::Error;
use crate::storage::Storage;

/// Who a node is: both are fixed for the life of its data directory.
///
/// A node ID is never given to a second node. A wiped node that came back under its old ID could
/// vote again in terms that it has forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The application's name for what the group keeps; it stays when another group goes on with
    /// an old state.
    pub cluster: [u8; 16],
    /// The group: the cluster's name for the first one, a random number for one that was
    /// [founded](crate::RaftNode::found) on an old state. Members of different groups refuse each
    /// other.
    pub group: [u8; 16],
    /// The member, at least 1.
    pub node: u64,
}

impl Identity {
    /// A node of a cluster's first group.
    pub fn first(cluster: [u8; 16], node: u64) -> Self {
        Self { cluster, group: cluster, node }
    }
}

/// What one node needs besides its identity.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the log and the snapshots; made if it is missing.
    pub dir: PathBuf,
    /// HOST:PORT at which the other members reach [`transport`](crate::RaftNode::transport).
    pub address: String,
    /// Heartbeats and elections; the same for all members.
    pub timing: Timing,
    /// Entries after which a new snapshot is written.
    pub snapshot_after: u64,
    /// Entries kept behind a snapshot, so that a member that was away briefly needs no snapshot.
    pub keep_entries: u64,
    /// Largest snapshot, in bytes, that is accepted from a leader.
    pub snapshot_size_max: u64,
    /// What keeps the log.
    pub storage: Arc<dyn Storage>,
    /// How the other members are reached.
    pub dial: Dial,
}

impl Options {
    /// Options with the defaults of a production group.
    #[cfg(feature = "rocksdb")]
    pub fn new(dir: impl Into<PathBuf>, address: impl Into<String>) -> Self {
        Self::on(Arc::new(crate::RocksStorage), dir, address)
    }

    /// As `new`, with another storage than RocksDB.
    pub fn on(
        storage: Arc<dyn Storage>,
        dir: impl Into<PathBuf>,
        address: impl Into<String>,
    ) -> Self {
        Self {
            dir: dir.into(),
            address: address.into(),
            timing: Timing::default(),
            snapshot_after: 50_000,
            keep_entries: 20_000,
            snapshot_size_max: 4 << 30,
            storage,
            dial: Dial::default(),
        }
    }
}

/// The clock of the protocol, in milliseconds.
///
/// A follower campaigns after the leader's lease (`election_max_ms`) plus a random time between
/// the two election times. These must be well above the time of a round trip and a disk sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
}

impl Default for Timing {
    /// A dead leader is replaced after 1.0 to 1.3 s, and a disk that takes up to 0.4 s for a sync,
    /// many times what a healthy one needs, does not cost anybody the lead. (openraft looks at its
    /// clock five times a heartbeat, which is most of what an idle member does.)
    fn default() -> Self {
        Self { heartbeat_ms: 200, election_min_ms: 400, election_max_ms: 650 }
    }
}

impl Options {
    /// The configuration of openraft that these options mean.
    pub(crate) fn engine(&self) -> Result<openraft::Config, Error> {
        let timing = self.timing;
        openraft::Config {
            cluster_name: "torus".to_owned(),
            heartbeat_interval: timing.heartbeat_ms,
            election_timeout_min: timing.election_min_ms,
            election_timeout_max: timing.election_max_ms,
            install_snapshot_timeout: 60_000,
            max_payload_entries: 256,
            purge_batch_size: self.keep_entries.clamp(1, 1024),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_after),
            max_in_snapshot_log_to_keep: self.keep_entries,
            replication_lag_threshold: self.snapshot_after.saturating_mul(2),
            enable_pre_vote: Some(true),
            // The vote of a lost lease is not kept across a restart: leading again without an
            // election would trust a lease that nobody granted.
            enable_leader_restore: Some(false),
            allow_log_reversion: None,
            // At least lease plus longest election; openraft refuses less.
            quorum_loss_probe_interval: Some(timing.election_max_ms.saturating_mul(3)),
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|source| Error::Timing { source: Box::new(source) })
    }
}
