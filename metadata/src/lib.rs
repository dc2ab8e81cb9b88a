//! The metadata of a cluster: one pure state machine, and the services that run it.

mod command;
mod error;
mod model;
mod service;

pub use command::{Answer, Applied, Command, Event, EventKind, Outcome, Query, Response};
pub use error::{Error, Refusal};
pub use model::{
    GlobalMetadata, Head, Lock, LogPosition, NodeId, Peer, Revision, Ring, RingKind, RingMember,
    RingVersion, Session, SessionId, Volume, Window,
};
pub use service::{MetadataService, WatchItem};
