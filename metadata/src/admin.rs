//! Forming and changing the group of members, as `torusctl` and the daemons ask for it.

mod backup;
mod client;
mod error;

use std::fmt;

use torus_blockstore::BlockSpec;
use uuid::Uuid;

use crate::{FeatureLevel, NodeId, Revision, RingKind};

pub use client::AdminClient;
pub use error::AdminError;
pub(crate) use error::{Applicant, Denied};

/// What `init` decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// Bytes in a block: a power of two from 64 KiB to 32 MiB.
    pub block_size: u32,
    /// The block spec of new volumes.
    pub block_spec: BlockSpec,
    /// How many peers hold each block, 1 to 16.
    pub replication: u32,
    /// The kind of the first ring, which has no members yet; not [`RingKind::Single`].
    pub ring: RingKind,
    /// How many members vote at most; odd. `None`: 5.
    pub voters_max: Option<u32>,
}

/// A cluster that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initialised {
    pub cluster: Uuid,
    /// Daemons that are registered in it: the first one and those that were waiting to join it.
    pub peers: u32,
}

/// A cluster whose metadata goes on from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    pub cluster: Uuid,
    /// Counts the groups that have gone on with its state.
    pub generation: u64,
    /// The first member.
    pub node: NodeId,
}

/// A place in the Raft group of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    pub cluster: Uuid,
    /// The group that keeps its metadata now.
    pub group: Uuid,
    pub node: NodeId,
}

/// What a member does in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupRole {
    Voter,
    /// Receives the log and has no vote.
    Learner,
}

impl fmt::Display for GroupRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
        })
    }
}

/// One member of the Raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    pub node: NodeId,
    pub address: String,
    pub role: GroupRole,
    /// It leads, as far as the answering member knows.
    pub leader: bool,
    /// The newest log entry that it is known to have. `None` unless the leader answered.
    pub matched: Option<u64>,
}

/// The group as one member sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    pub cluster: Uuid,
    /// Counts the groups that have gone on with the cluster's state; 0 where it is not known yet.
    pub generation: u64,
    /// The commands that the cluster can use, and those that the answering member knows.
    pub level: FeatureLevel,
    pub known_level: FeatureLevel,
    /// The member that answered.
    pub node: NodeId,
    pub term: u64,
    /// Index of its last log entry, and of the last that it has applied.
    pub last_log: u64,
    pub applied: u64,
    /// Index up to which it knows the log to be committed.
    pub committed: u64,
    /// On the leader: milliseconds since a majority last answered it.
    pub quorum_acked_ms: Option<u64>,
    /// Index of the last entry in its snapshot; 0 when it has none.
    pub snapshot: u64,
    /// Milliseconds since that was written.
    pub snapshot_age_ms: Option<u64>,
    /// Its disk has no room for commands.
    pub is_full: bool,
    pub revision: Revision,
    pub sessions: u64,
    /// Sorted by node.
    pub members: Vec<GroupMember>,
    /// A change of the voters has begun and not ended.
    pub joint: bool,
    /// How many members vote at most.
    pub voters_max: u32,
}

impl GroupStatus {
    /// The member that leads, if one is known.
    pub fn leader(&self) -> Option<&GroupMember> {
        self.members.iter().find(|member| member.leader)
    }
}
