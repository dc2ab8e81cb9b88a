//! The other peers of the cluster: whom requests go to, and who answers at present.

mod connection;
mod link;
mod tcp;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use torus_blockstore::PeerId;

use crate::{PeerError, Request, Response, Usage};

pub use tcp::TcpPeers;

/// Whether a peer answers, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The first attempt to reach it has not ended.
    Unknown,
    /// It answers, on a connection since then: one that was lost meanwhile shows.
    Up {
        since: Instant,
    },
    Down,
}

/// Every registered peer, and how it is.
pub type HealthMap = Arc<BTreeMap<PeerId, Health>>;

/// Reaches peers: over TCP in daemons and clients, over a simulated network in the simulation.
pub trait Peers: Send + Sync + 'static {
    /// Sends a request. It is on its way, behind those of earlier calls to the same peer, when this
    /// returns; dropping the future gives up the answer only. The answer comes in bounded time:
    /// [`PeerError::Silent`] or [`PeerError::TooSlow`] if the peer has none to give.
    fn request(
        &self,
        peer: PeerId,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, PeerError>>;

    /// The peer whose store this process has, if it has one.
    fn local(&self) -> Option<PeerId>;

    /// Who answers, and whenever that changes.
    fn health(&self) -> watch::Receiver<HealthMap>;

    /// Whether `peer` answers now.
    fn is_up(&self, peer: PeerId) -> bool {
        matches!(self.health().borrow().get(&peer), Some(Health::Up { .. }))
    }

    /// How full the store of `peer` is, by what it said within the last second; `None`: it does not
    /// answer, or has not said it yet.
    fn usage(&self, peer: PeerId) -> Option<Usage>;
}
