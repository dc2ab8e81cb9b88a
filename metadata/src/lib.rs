//! The metadata of a cluster: one pure state machine, and the services that run it.

#![cfg_attr(
    not(feature = "member"),
    expect(dead_code, reason = "the log, its snapshots and the members are the raft service's")
)]
#![cfg_attr(
    not(any(feature = "member", test)),
    expect(unused_imports, reason = "as above; tests without the feature use them")
)]

mod command;
mod error;
mod level;
mod model;
mod reasons;
mod service;

mod state;

mod deadlines;
mod dedupe;
mod history;
mod machine;

mod planted;
mod replica;

mod admin;
mod backup;
mod client;
mod dial;
mod follow;
mod requests;
mod serve;
mod temp;

#[expect(unreachable_pub, reason = "generated code, and the conversions of public types")]
mod wire;

#[cfg(feature = "member")]
mod member;

#[cfg(test)]
mod fixtures;

pub use admin::{
    AdminClient, AdminError, GroupMember, GroupRole, GroupStatus, InitOptions, Initialised,
    Membership, Restored,
};
pub use backup::{Backup, BackupError, BackupInfo};
pub use client::Client;
pub use command::{Answer, Applied, Command, Event, EventKind, Outcome, Query, Response};
pub use error::{Error, Refusal};
pub use follow::{Followed, follow, follow_from};
pub use level::FeatureLevel;
#[cfg(feature = "member")]
pub use member::{
    Change, Entries, FormerGeneration, Member, MemberOptions, MemberState, Pace, Records, Rewound,
    StartError, Storage, Timing, Tuning,
};
#[cfg(feature = "raft")]
pub use member::{RecoverError, Refounded, Survivor};
pub use model::{
    Ask, AskAnswer, AskId, GlobalMetadata, Group, GroupPlace, Head, Lock, LogPosition, NodeId,
    Parent, Peer, Revision, Ring, RingKind, RingKindError, RingMember, RingVersion, Session,
    SessionId, Snapshot, SnapshotId, Task, Volume, Window,
};
#[cfg(feature = "planted")]
pub use planted::{Planted, plant};
pub use service::{MetadataService, WatchItem};
pub use state::{State, block_size_is_valid};
pub use temp::TempService;
