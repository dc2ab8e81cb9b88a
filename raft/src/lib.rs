//! A replicated state machine: openraft behind a small interface of our own.
//!
//! The application implements [`StateMachine`], whose commands, responses and snapshots are bytes
//! here, and starts a [`RaftNode`] in a folder. What a write returned is durable on a majority of
//! the voters; what [`RaftNode::linearize`] waited for contains every write that had returned.
//!
//! RocksDB keeps the log. Built without the feature `rocksdb`, or for a simulation, a node runs on
//! another [`Storage`], over connections that another [`Dial`](torus_dial::Dial) makes.
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
mod storage;
mod transport;
mod wire;

pub use error::{
    DecodeError, Error, Failure, Leader, MemberError, ReadError, SnapshotError, WriteError,
};
#[cfg(feature = "rocksdb")]
pub use log::RocksStorage;
pub use machine::{SnapshotWriter, StateMachine};
pub use node::{Position, RaftNode, Remains};
pub use options::{Identity, Options, Timing};
pub use status::{Leadership, Member, Role, Status};
pub use storage::{Change, Entries, Pace, Records, Storage};
pub use transport::{MEMBER, Rewound, Transport, divide};
