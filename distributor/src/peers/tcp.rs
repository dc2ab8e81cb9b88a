//! Peers over TCP: one connection to each, at the address that the metadata names; the local one
//! is called without a socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use torus_blockstore::PeerId;
use uuid::Uuid;

use super::connection::{REQUEST_TIMEOUT, Target};
use super::link::Link;
use super::{Health, HealthMap, Peers};
use crate::{PeerError, PeerServer, Request, Response, Usage, View};

type Links = BTreeMap<PeerId, Arc<Link>>;

/// Reaches the cluster's peers over TCP.
pub struct TcpPeers {
    links: Arc<ArcSwap<Links>>,
    local: Option<PeerServer>,
    health: Arc<watch::Sender<HealthMap>>,
    /// Whether the peers have been read.
    is_open: watch::Receiver<bool>,
    _book: AbortOnDropHandle<()>,
}

impl TcpPeers {
    /// Connects to the peers of `view`, and follows it. A process that has a store names its
    /// server. Requests that come before the peers were read wait for them, in no order. Must be
    /// called on a tokio runtime.
    pub fn start(
        cluster: Uuid,
        block_size: u32,
        local: Option<PeerServer>,
        view: watch::Receiver<View>,
    ) -> Self {
        let links = Arc::new(ArcSwap::from_pointee(Links::new()));
        let health = Arc::new(watch::Sender::new(HealthMap::default()));
        let (opened, is_open) = watch::channel(false);
        let book = Book {
            opened,
            cluster,
            block_size,
            local: local.as_ref().map(|server| server.identity().peer),
            links: Arc::clone(&links),
            health: Arc::clone(&health),
        };
        let book = AbortOnDropHandle::new(tokio::spawn(book.run(view)));
        Self { links, local, health, is_open, _book: book }
    }
}

impl Peers for TcpPeers {
    fn request(
        &self,
        peer: PeerId,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, PeerError>> {
        if let Some(server) = self.local.as_ref().filter(|server| server.identity().peer == peer) {
            let answer = server.ask(request);
            return answer.map(|answer| answer.unwrap_or(Err(PeerError::Silent))).boxed();
        }
        if *self.is_open.borrow() {
            return send(&self.links, peer, request);
        }
        let (mut is_open, links) = (self.is_open.clone(), Arc::clone(&self.links));
        async move {
            let opened = is_open.wait_for(|&is_open| is_open);
            let opened = timeout(REQUEST_TIMEOUT, opened).await.is_ok_and(|opened| opened.is_ok());
            if opened { send(&links, peer, request).await } else { Err(PeerError::Silent) }
        }
        .boxed()
    }

    fn local(&self) -> Option<PeerId> {
        self.local.as_ref().map(|server| server.identity().peer)
    }

    fn health(&self) -> watch::Receiver<HealthMap> {
        self.health.subscribe()
    }

    fn usage(&self, peer: PeerId) -> Option<Usage> {
        match &self.local {
            Some(server) if server.identity().peer == peer => Some(server.keeper().usage()),
            _ => self.links.load().get(&peer)?.usage(),
        }
    }
}

fn send(
    links: &ArcSwap<Links>,
    peer: PeerId,
    request: Request,
) -> BoxFuture<'static, Result<Response, PeerError>> {
    let (reply, answer) = oneshot::channel();
    // A peer that is not registered drops the reply, which is an answer too.
    if let Some(link) = links.load().get(&peer) {
        link.send(request, reply);
    }
    answer.map(|answer| answer.unwrap_or(Err(PeerError::Silent))).boxed()
}

/// Keeps the links to what the metadata says.
struct Book {
    cluster: Uuid,
    block_size: u32,
    local: Option<PeerId>,
    links: Arc<ArcSwap<Links>>,
    health: Arc<watch::Sender<HealthMap>>,
    opened: watch::Sender<bool>,
}

impl Book {
    async fn run(self, mut view: watch::Receiver<View>) {
        loop {
            let peers = view.borrow_and_update().peers.clone();
            if let Some(peers) = peers {
                self.follow(peers.into_values().map(|peer| (peer.id, peer.address)).collect());
                self.opened.send_if_modified(|is_open| !std::mem::replace(is_open, true));
            }
            if view.changed().await.is_err() {
                return;
            }
        }
    }

    fn follow(&self, addresses: BTreeMap<PeerId, String>) {
        // Health first: a link reports on peers that the map knows.
        self.health.send_if_modified(|map| {
            let before = Arc::clone(map);
            let health = |&peer: &PeerId| match before.get(&peer) {
                Some(&known) => (peer, known),
                None if Some(peer) == self.local => (peer, Health::Up { since: Instant::now() }),
                None => (peer, Health::Unknown),
            };
            *map = Arc::new(addresses.keys().map(health).collect());
            *map != before
        });
        let known = self.links.load();
        let mut links = Links::new();
        for (peer, address) in addresses {
            if Some(peer) == self.local {
                continue;
            }
            let link = known.get(&peer).cloned().unwrap_or_else(|| {
                let target = Target { cluster: self.cluster, peer, block_size: self.block_size };
                Arc::new(Link::start(target, address.clone(), Arc::clone(&self.health)))
            });
            link.set_address(&address);
            links.insert(peer, link);
        }
        self.links.store(Arc::new(links));
    }
}
