//! [`Peers`] over the simulated network: one link to each node, which connects again whenever its
//! connection breaks, as the links over TCP do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use torus_blockstore::PeerId;
use torus_distributor::{Health, HealthMap, PeerError, Peers, Request, Response, Usage};

use super::Context;
use super::chance::Chance;
use super::connection::{Answer, Connection};
use super::network::{Network, Process};
use super::node::{Asker, Life, Node, lock};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a node says how full it is.
const USAGE_AGE: Duration = Duration::from_secs(1);

/// The nodes as one process reaches them.
#[derive(Clone)]
pub(crate) struct SimPeers(Arc<Shared>);

struct Shared {
    context: Arc<Context>,
    network: Arc<Network>,
    chance: Chance,
    process: Arc<Process>,
    local: Option<(PeerId, Arc<Node>, Weak<Life>)>,
    links: BTreeMap<PeerId, Link>,
    health: Mutex<Healths>,
}

struct Link {
    node: Arc<Node>,
    state: Mutex<State>,
    /// What the node last said of its store, and when.
    usage: Mutex<Option<(Instant, Usage)>>,
}

enum State {
    /// Nobody knows yet.
    First(Vec<(Request, oneshot::Sender<Answer>)>),
    Up(Arc<Connection>),
    Down,
}

/// Every listener has a channel of its own: the order in which one channel wakes several is left to
/// chance, and not to ours.
struct Healths {
    map: HealthMap,
    listeners: Vec<watch::Sender<HealthMap>>,
}

impl SimPeers {
    /// Begins to connect; the tasks that do are the process's, and end with it.
    pub(crate) fn start(
        context: &Arc<Context>,
        network: &Arc<Network>,
        process: &Arc<Process>,
        nodes: &[Arc<Node>],
        local: Option<(PeerId, Arc<Node>, Weak<Life>)>,
    ) -> (Self, Vec<AbortOnDropHandle<()>>) {
        let me = local.as_ref().map(|(peer, ..)| *peer);
        let now = Instant::now();
        let health = |node: &Arc<Node>| {
            (
                node.peer(),
                if Some(node.peer()) == me { Health::Up { since: now } } else { Health::Unknown },
            )
        };
        let map = Arc::new(nodes.iter().map(health).collect());
        let link = |node: &Arc<Node>| {
            let state = Mutex::new(State::First(Vec::new()));
            (node.peer(), Link { node: Arc::clone(node), state, usage: Mutex::default() })
        };
        let others = nodes.iter().filter(|node| Some(node.peer()) != me);
        let shared = Arc::new(Shared {
            context: Arc::clone(context),
            network: Arc::clone(network),
            chance: Chance::new(context.seed, &format!("links of {}", process.number)),
            process: Arc::clone(process),
            local,
            links: others.map(link).collect(),
            health: Mutex::new(Healths { map, listeners: Vec::new() }),
        });
        let diallers = shared.links.keys().map(|&peer| {
            AbortOnDropHandle::new(tokio::spawn(Arc::clone(&shared).keep_connected(peer)))
        });
        let diallers = diallers.collect();
        (Self(shared), diallers)
    }
}

impl Peers for SimPeers {
    fn request(
        &self,
        peer: PeerId,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, PeerError>> {
        let shared = &self.0;
        let process = Arc::clone(&shared.process);
        if process.is_dead() {
            return std::future::pending().boxed();
        }
        shared.context.trace.turn();
        let (reply, answer) = oneshot::channel();
        if let Some((_, node, life)) = shared.local.as_ref().filter(|local| local.0 == peer) {
            if let Some(life) = life.upgrade() {
                node.dispatch(&life, request, Asker::Local(reply));
            }
        } else if let Some(link) = shared.links.get(&peer) {
            let mut state = link.lock();
            match &mut *state {
                State::First(queue) => queue.push((request, reply)),
                State::Down => drop(reply),
                State::Up(connection) => {
                    let connection = Arc::clone(connection);
                    drop(state);
                    connection.send(request, reply);
                }
            }
        }
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        async move {
            let answer = match timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(PeerError::Silent),
                Err(_) => Err(PeerError::TooSlow),
            };
            process.only_alive(answer).await
        }
        .boxed()
    }

    fn local(&self) -> Option<PeerId> {
        self.0.local.as_ref().map(|(peer, ..)| *peer)
    }

    fn health(&self) -> watch::Receiver<HealthMap> {
        let mut health = self.0.lock();
        health.listeners.retain(|listener| listener.receiver_count() > 0);
        let (sender, receiver) = watch::channel(Arc::clone(&health.map));
        health.listeners.push(sender);
        receiver
    }

    fn is_up(&self, peer: PeerId) -> bool {
        matches!(self.0.lock().map.get(&peer), Some(Health::Up { .. }))
    }

    fn usage(&self, peer: PeerId) -> Option<Usage> {
        let shared = &self.0;
        if let Some((_, _, life)) = shared.local.as_ref().filter(|local| local.0 == peer) {
            return life.upgrade().map(|life| life.usage());
        }
        let link = shared.links.get(&peer)?;
        let State::Up(connection) = &*link.lock() else { return None };
        let mut told = lock(&link.usage);
        let is_old = told.is_none_or(|(at, _)| at.elapsed() > USAGE_AGE);
        let (client, node) = connection.hosts();
        if is_old
            && !shared.network.is_cut(node, client)
            && let Some(life) = link.node.life()
        {
            *told = Some((Instant::now(), life.usage()));
        }
        told.map(|(_, usage)| usage)
    }
}

impl Shared {
    async fn keep_connected(self: Arc<Self>, peer: PeerId) {
        let link = &self.links[&peer];
        let mut pause = SHORTEST_PAUSE;
        loop {
            let began = Instant::now();
            if let Some(connection) = self.connect(&link.node).await {
                let (process, node) = (self.process.number, u64::from(link.node.host().0));
                self.context.trace.note("connected", &[process, node, connection.number()]);
                if let State::First(queue) = std::mem::replace(&mut *link.lock(), State::Down) {
                    queue.into_iter().for_each(|(request, reply)| connection.send(request, reply));
                }
                *link.lock() = State::Up(Arc::clone(&connection));
                self.set_health(peer, Health::Up { since: Instant::now() });
                connection.closed().await;
                self.context.trace.note("disconnected", &[process, node]);
            }
            // Dropping what waits is the answer to it.
            *link.lock() = State::Down;
            self.set_health(peer, Health::Down);
            if began.elapsed() > LONGEST_PAUSE {
                pause = SHORTEST_PAUSE;
            }
            sleep(pause.mul_f64(self.chance.part())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(&self, node: &Arc<Node>) -> Option<Arc<Connection>> {
        let (network, here, there) = (&self.network, self.process.host, node.host());
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let greeted = async {
            sleep(network.delay()).await;
            network.passable(here, there).await;
            network.awake(there).await;
            let life = node.life()?;
            sleep(network.delay()).await;
            network.passable(there, here).await;
            network.awake(here).await;
            Some(life)
        };
        let life = timeout_at(deadline, greeted).await.ok().flatten()?;
        life.is_alive().then(|| Connection::open(network, &self.process, node, &life))
    }

    fn set_health(&self, peer: PeerId, found: Health) {
        let mut health = self.lock();
        if health.map.get(&peer) == Some(&found) {
            return;
        }
        Arc::make_mut(&mut health.map).insert(peer, found);
        let map = Arc::clone(&health.map);
        health.listeners.retain(|listener| listener.receiver_count() > 0);
        for listener in &health.listeners {
            listener.send_replace(Arc::clone(&map));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Healths> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
