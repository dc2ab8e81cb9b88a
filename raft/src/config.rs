//! The types that openraft is used with. None of them leaves this crate.

use std::fmt;

use bytes::Bytes;
use openraft::alias::{SnapshotMetaOf, StoredMembershipOf};
use openraft::{BasicNode, EntryPayload};

use crate::apply::Machine;

/// A command of the application; opaque here.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the application answered; empty for entries that are not the application's.
#[derive(Debug, Default)]
pub(crate) struct Response(pub(crate) Vec<u8>);

openraft::declare_raft_types!(
    /// Node IDs and terms are `u64`, and a term may have several leaders, one after the other.
    pub(crate) TypeConfig:
        D = Command,
        R = Response,
        NodeId = u64,
        Node = BasicNode,
        LeaderId = LeaderId,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = EntryPayload<Command, u64, BasicNode>;
pub(crate) type Entry = openraft::Entry<LeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<u64, BasicNode>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;

/// Largest command, in bytes.
pub(crate) const COMMAND_SIZE_MAX: usize = 1 << 20;
/// Bytes of entries, about, that one append carries; a single larger entry still goes alone.
pub(crate) const APPEND_SIZE_MAX: usize = 1 << 20;
/// Largest message of the transport. Far above what an append or a snapshot chunk needs.
pub(crate) const MESSAGE_SIZE_MAX: usize = 16 << 20;
