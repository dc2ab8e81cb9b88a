//! The blocks of the cluster: where they go, how they get there and how they are found again.

mod error;
mod follow;
mod keeper;
mod lock;
mod outbox;
mod peers;
mod pool;
mod progress;
mod protocol;
mod rebalance;
mod ring;
mod server;
#[cfg(test)]
mod testing;
mod write;

pub use error::{FrameError, PeerError, Refusal};
pub use follow::{Follower, View, Volumes};
pub use keeper::{Due, Keeper};
pub use peers::{Health, HealthMap, Peers, TcpPeers};
pub use pool::Distributor;
pub use protocol::hello::MAGIC;
pub use protocol::{Request, Response, StateQuery, Status};
pub use rebalance::Rebalancer;
pub use ring::Placer;
pub use server::{Identity, PeerServer, ServeError};
