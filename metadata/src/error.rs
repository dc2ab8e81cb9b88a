//! What goes wrong: the state machine's refusals, which every member gives alike, and the failures
//! of reaching it.

use torus_blockstore::{Epoch, VolumeId};

use crate::{FeatureLevel, Revision, RingVersion};

/// A command that the state machine did not carry out; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("the cluster is already initialised")]
    AlreadyInitialised,
    #[error("the cluster is not initialised; run 'torusctl init'")]
    NotInitialised,
    #[error("{what} is not valid: {why}")]
    Invalid { what: &'static str, why: &'static str },
    #[error("a volume named {name:?} exists already")]
    VolumeExists { name: String },
    #[error("there is no volume {name:?}")]
    NoSuchVolume { name: String },
    #[error("there is no volume with ID {id}")]
    NoSuchVolumeId { id: VolumeId },
    #[error("volume {name:?} is in use by {owner}")]
    InUse { name: String, owner: String },
    /// A command of an epoch that is not, or no longer, the volume's.
    #[error("epoch {found} of the volume has ended; {current} is current")]
    StaleEpoch { found: Epoch, current: Epoch },
    /// The lock of this epoch has been freed (its session ended); `RelockVolume` may get it back.
    #[error("epoch {epoch} of the volume is not locked")]
    NotLocked { epoch: Epoch },
    #[error("the session has ended")]
    NoSuchSession,
    #[error("the ring is at version {current}; version {found} does not follow it")]
    RingVersion { current: RingVersion, found: RingVersion },
    #[error("ring version {0} is not kept")]
    NoSuchRing(RingVersion),
    #[error("there is no such peer")]
    NoSuchPeer,
    #[error("the ring names the peer; take it out with 'torusctl peer remove' first")]
    PeerInRing,
    #[error("open windows may still have blocks on the peer; it can go after their checkpoint")]
    PeerInWindow,
    /// The request is older than another of the same client that was applied: an echo.
    #[error("a newer request of this client was applied already")]
    Superseded,
    #[error("the window does not follow the volume's last one")]
    WindowOrder,
    #[error("the head does not follow the volume's last one")]
    HeadOrder,
    #[error("volume {volume:?} has a snapshot named {snapshot:?} already")]
    SnapshotExists { volume: String, snapshot: String },
    #[error("volume {volume:?} has no such snapshot")]
    NoSuchSnapshot { volume: String },
    /// Clones point into a snapshot's blocks.
    #[error("{clones} {} made from snapshot {snapshot:?} of volume {volume:?}; flatten or delete {} first", if *.clones == 1 { "clone was" } else { "clones were" }, if *.clones == 1 { "it" } else { "them" })]
    HasClones { volume: String, snapshot: String, clones: u64 },
    #[error("volume {volume:?} has {snapshots} {}; delete {} first, or use --force", if *.snapshots == 1 { "snapshot" } else { "snapshots" }, if *.snapshots == 1 { "it" } else { "them" })]
    HasSnapshots { volume: String, snapshots: u64 },
    #[error(
        "snapshot {snapshot:?} of volume {volume:?} is being read; --force deletes it all the same"
    )]
    SnapshotInUse { volume: String, snapshot: String },
    /// An ask needs a writer.
    #[error("volume {name:?} is not in use: it has no writer that could be asked")]
    NoWriter { name: String },
    #[error("the volumes are in use in different places; a group snapshot needs them in one")]
    SeveralWriters,
    #[error("the volume has unwritten data behind its head; only its writer can do this")]
    HeadBehind,
    #[error("the volume is smaller only by its writer's word")]
    Shrinks,
    #[error("this was not asked, or was answered or withdrawn")]
    NoSuchAsk,
    /// Some member is of a version that does not know the command.
    #[error(
        "this needs feature level {needed}, and the cluster is at {present}: every member must run a version that has it"
    )]
    Level { needed: FeatureLevel, present: FeatureLevel },
}

/// A failed call of the metadata service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The state machine's answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No member answered, or the group has no leader; waiting may help.
    #[error("the metadata service at {tried} does not answer")]
    Unavailable {
        tried: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Not proposed: the disk of the leader has no room for commands. What is there stays, and can
    /// be read; when there is room again, commands are taken again.
    #[error(
        "the metadata takes no change: the disk of its leader at {address} has less than 64 MiB \
         left; free some space there"
    )]
    NoSpace { address: String },
    /// The member that was asked has not been initialised and has not joined a cluster.
    #[error("the daemon at {address} is not part of a cluster yet; run 'torusctl init'")]
    NotInitialised { address: String },
    /// The changes that a watch asked for are no longer kept.
    #[error("changes up to revision {compacted} are no longer kept")]
    Compacted { compacted: Revision },
    /// An answer that this version does not understand.
    #[error("the metadata service sent an answer that this version does not understand: {what}")]
    Protocol { what: &'static str },
}

/// A call that failed, told by what is at the bottom of it: gRPC wraps that several times over.
#[derive(Debug)]
struct CallFailed(tonic::Status);

impl std::error::Error for CallFailed {}

impl std::fmt::Display for CallFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut cause = std::error::Error::source(&self.0);
        while let Some(deeper) = cause.and_then(|cause| cause.source()) {
            cause = Some(deeper);
        }
        match cause {
            Some(cause) => write!(f, "{cause}"),
            None => f.write_str(self.0.message()),
        }
    }
}

/// The source of an [`Error::Unavailable`].
pub(crate) fn call_failed(status: tonic::Status) -> Box<dyn std::error::Error + Send + Sync> {
    Box::new(CallFailed(status))
}
