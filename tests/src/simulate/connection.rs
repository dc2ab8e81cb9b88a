//! One connection of a process to a node: requests and answers each arrive in the order in which
//! they were sent, until the connection breaks; then what was sent may still arrive, or not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use torus_distributor::{PeerError, Refusal, Request, Response};

use super::network::{Host, Network, Process};
use super::node::{Asker, Life, Node};

/// As in the distributor: a peer that is silent for so long is gone.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_millis(2500);

pub(crate) type Answer = Result<Response, PeerError>;

pub(crate) struct Connection {
    number: u64,
    network: Arc<Network>,
    process: Arc<Process>,
    node: Host,
    state: Mutex<State>,
    requests: mpsc::UnboundedSender<Message<Request>>,
    answers: mpsc::UnboundedSender<Message<Result<Response, Refusal>>>,
    closed: CancellationToken,
}

struct State {
    is_doomed: bool,
    next: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    last_request: Instant,
    last_answer: Instant,
}

struct Message<T> {
    id: u64,
    arrival: Instant,
    content: T,
}

impl Connection {
    /// A connection to the present life of a node.
    pub(crate) fn open(
        network: &Arc<Network>,
        process: &Arc<Process>,
        node: &Arc<Node>,
        life: &Arc<Life>,
    ) -> Arc<Self> {
        let (requests, sent) = mpsc::unbounded_channel();
        let (answers, answered) = mpsc::unbounded_channel();
        let now = Instant::now();
        let connection = network.register(|number| {
            Arc::new(Self {
                number,
                network: Arc::clone(network),
                process: Arc::clone(process),
                node: node.host(),
                state: Mutex::new(State {
                    is_doomed: false,
                    next: 0,
                    waiting: BTreeMap::new(),
                    last_request: now,
                    last_answer: now,
                }),
                requests,
                answers,
                closed: CancellationToken::new(),
            })
        });
        let weak = Arc::downgrade(&connection);
        let (client, to) = (process.host, node.host());
        let delivery = Delivery { network: Arc::clone(network), client, node: to };
        tokio::spawn(delivery.clone().requests(
            sent,
            weak.clone(),
            Arc::clone(node),
            Arc::downgrade(life),
        ));
        tokio::spawn(delivery.answers(answered, weak));
        life.connected(&connection);
        connection
    }

    /// The process's and the node's.
    pub(crate) fn hosts(&self) -> (Host, Host) {
        (self.process.host, self.node)
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn send(self: &Arc<Self>, request: Request, reply: oneshot::Sender<Answer>) {
        let mut state = self.lock();
        if self.closed.is_cancelled() {
            return;
        }
        let id = state.next;
        state.next += 1;
        state.waiting.insert(id, reply);
        if state.is_doomed {
            return;
        }
        if self.network.loses() {
            drop(state);
            return self.doom();
        }
        let arrival = self.network.arrival(self.process.host).max(state.last_request);
        state.last_request = arrival;
        // The task that delivers lives as long as this end.
        let _ = self.requests.send(Message { id, arrival, content: request });
    }

    pub(crate) fn answer(self: &Arc<Self>, id: u64, content: Result<Response, Refusal>) {
        let mut state = self.lock();
        if self.closed.is_cancelled() || state.is_doomed {
            return;
        }
        if self.network.loses() {
            drop(state);
            return self.doom();
        }
        let arrival = self.network.arrival(self.node).max(state.last_answer);
        state.last_answer = arrival;
        let _ = self.answers.send(Message { id, arrival, content });
    }

    /// Something was lost: nothing that is sent from now on arrives, which is noticed later.
    fn doom(self: &Arc<Self>) {
        self.lock().is_doomed = true;
        let connection = Arc::clone(self);
        let noticed = match self.network.coin() {
            true => self.network.delay(),
            false => SILENCE_LIMIT,
        };
        tokio::spawn(async move {
            sleep(noticed).await;
            connection.close();
        });
    }

    /// Who waits learns that there is no answer.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.lock().waiting.clear();
    }

    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    fn arrived(&self, id: u64, content: Result<Response, Refusal>) {
        if let Some(reply) = self.lock().waiting.remove(&id) {
            // Nobody may wait for it any more.
            let _ = reply.send(content.map_err(PeerError::Refused));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
struct Delivery {
    network: Arc<Network>,
    client: Host,
    node: Host,
}

impl Delivery {
    async fn requests(
        self,
        mut sent: mpsc::UnboundedReceiver<Message<Request>>,
        connection: Weak<Connection>,
        node: Arc<Node>,
        life: Weak<Life>,
    ) {
        while let Some(Message { id, arrival, content }) = sent.recv().await {
            sleep_until(arrival).await;
            // The sender's system repeats what was not acknowledged, until it has given up.
            if self.network.passable(self.client, self.node).await && self.network.coin() {
                return;
            }
            self.network.awake(self.node).await;
            let Some(life) = life.upgrade().filter(|life| life.is_alive()) else { return };
            node.dispatch(&life, content, Asker::Remote { connection: connection.clone(), id });
        }
    }

    async fn answers(
        self,
        mut answered: mpsc::UnboundedReceiver<Message<Result<Response, Refusal>>>,
        connection: Weak<Connection>,
    ) {
        while let Some(Message { id, arrival, content }) = answered.recv().await {
            sleep_until(arrival).await;
            self.network.passable(self.node, self.client).await;
            self.network.awake(self.client).await;
            let Some(connection) = connection.upgrade() else { return };
            connection.arrived(id, content);
        }
    }
}
