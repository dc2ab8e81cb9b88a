//! The blocks of the cluster: where they go, how they get there and how they are found again.
//!
//! A volume sees a [`Distributor`]; a daemon also runs a [`PeerServer`] over its store and a
//! [`Rebalancer`] that looks after it. Promises, each kept by the module that is named:
//!
//! - The places of a block depend on the ring alone (`ring`).
//! - What is acknowledged as durable is on the disk of every peer that was named, no fewer
//!   (`write`, `server`).
//! - After a fence was answered, nothing of an older epoch follows (`keeper`).
//! - A read asks everybody who may have the block before it fails (`pool`).
//! - No copy is deleted for want of an answer (`rebalance`).
//! - Writers stop before peers have no room left for checkpoints and repair (`space`).

mod ring;

#[cfg(feature = "bench")]
pub mod bench;
mod error;
mod protocol;

mod space;

mod keeper;
mod outbox;
mod progress;
mod server;

mod follow;
mod peers;
mod pool;
mod write;

mod rebalance;

mod lock;
#[cfg(test)]
mod testing;

pub use error::{FrameError, PeerError, Refusal};
pub use follow::{Follower, Jitter, View, Volumes};
pub use keeper::{Due, Keeper};
pub use peers::{Health, HealthMap, Peers, TcpPeers};
pub use pool::Distributor;
pub use protocol::hello::MAGIC;
pub use protocol::{Request, Response, StateQuery, Status};
pub use rebalance::{Rebalancer, StoreWork};
pub use ring::Placer;
pub use server::{Identity, PeerServer, ServeError};
pub use space::{Usage, reserve_blocks};
