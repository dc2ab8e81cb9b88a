//! A replicated state machine: openraft behind a small interface of our own.
//!
//! The application implements [`StateMachine`], whose commands, responses and snapshots are bytes
//! here, and starts a [`RaftNode`] in a folder. What a write returned is durable on a majority of
//! the voters; what [`RaftNode::linearize`] waited for contains every write that had returned.
//!
//! No type of openraft leaves this crate, neither in its interface nor on disk nor on the wire:
//! both formats are `proto/raft.proto`, and a newer openraft changes nothing for anyone else.

mod apply;
mod config;
mod error;
mod log;
mod machine;
mod metrics;
mod node;
mod options;
mod snapshot;
mod status;
mod transport;
mod wire;

pub use error::{
    DecodeError, Error, Failure, Leader, MemberError, ReadError, SnapshotError, WriteError,
};
pub use machine::{SnapshotWriter, StateMachine};
pub use node::{Position, RaftNode, Remains};
pub use options::{Identity, Options, Timing};
pub use status::{Leadership, Member, Role, Status};
pub use transport::Transport;
