//! The way to one peer: a connection that is made again whenever it breaks.
//!
//! Requests wait only for the first attempt to connect; later, while the peer is down, they fail at
//! once, so that their sender goes on to another peer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use torus_blockstore::PeerId;

use super::connection::{Connection, LinkError, Reply, Target, fail};
use super::{Health, HealthMap};
use crate::lock::lock;
use crate::{Request, Usage};

/// How long connecting and greeting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause before the next attempt, doubled for each that fails up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Requests that may wait for the first attempt.
const QUEUE: usize = 1024;

pub(super) struct Link {
    state: Arc<Mutex<State>>,
    address: watch::Sender<String>,
    _task: AbortOnDropHandle<()>,
}

enum State {
    /// Nobody knows yet.
    First(Vec<(Request, Reply)>),
    Up(Arc<Connection>),
    Down,
}

/// What the task needs.
struct Dialler {
    target: Target,
    state: Arc<Mutex<State>>,
    health: Arc<watch::Sender<HealthMap>>,
}

impl Link {
    pub(super) fn start(
        target: Target,
        address: String,
        health: Arc<watch::Sender<HealthMap>>,
    ) -> Self {
        let state = Arc::new(Mutex::new(State::First(Vec::new())));
        let (sender, address) = watch::channel(address);
        let dialler = Dialler { target, state: Arc::clone(&state), health };
        let task = AbortOnDropHandle::new(tokio::spawn(dialler.run(address)));
        Self { state, address: sender, _task: task }
    }

    /// Where the peer is from now on; a connection to elsewhere ends.
    pub(super) fn set_address(&self, address: &str) {
        self.address.send_if_modified(|known| {
            let is_new = known != address;
            if is_new {
                address.clone_into(known);
            }
            is_new
        });
    }

    /// How full the peer's store is, while it answers.
    pub(super) fn usage(&self) -> Option<Usage> {
        match &*lock(&self.state) {
            State::Up(connection) => connection.usage(),
            State::First(_) | State::Down => None,
        }
    }

    pub(super) fn send(&self, request: Request, reply: Reply) {
        let mut state = lock(&self.state);
        match &mut *state {
            State::First(queue) if queue.len() < QUEUE => queue.push((request, reply)),
            State::First(_) | State::Down => fail(reply),
            State::Up(connection) => {
                let connection = Arc::clone(connection);
                drop(state);
                connection.send(request, reply);
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        *lock(&self.state) = State::Down;
    }
}

impl Dialler {
    async fn run(self, mut address: watch::Receiver<String>) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let current = address.borrow_and_update().clone();
            let began = Instant::now();
            let error = tokio::select! {
                error = self.connect_and_run(&current) => error,
                changed = address.changed() => {
                    self.down();
                    match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    }
                }
            };
            let was_up = self.down();
            self.log(&current, &error, was_up);
            // What lasted for a while is tried again soon.
            if began.elapsed() > LONGEST_PAUSE {
                pause = SHORTEST_PAUSE;
            }
            let pausing = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0)));
            pause = (pause * 2).min(LONGEST_PAUSE);
            tokio::select! {
                () = pausing => {}
                _ = address.changed() => pause = SHORTEST_PAUSE,
            }
        }
    }

    fn log(&self, address: &str, error: &LinkError, was_up: bool) {
        let (peer, error) = (self.target.peer, error as &(dyn std::error::Error + 'static));
        if was_up {
            tracing::warn!(%peer, address, error, "lost a peer");
        } else {
            tracing::debug!(%peer, address, error, "cannot reach a peer");
        }
    }

    async fn connect_and_run(&self, address: &str) -> LinkError {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (mut reader, writer) = stream.into_split();
            let connection = Connection::open(self.target, &mut reader, writer).await?;
            Ok((connection, reader))
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok((connection, reader))) => {
                self.up(&connection);
                connection.run(reader).await
            }
            Ok(Err(error)) => error,
            Err(_) => LinkError::Silent,
        }
    }

    /// Sends what waited, before anything that comes later.
    fn up(&self, connection: &Arc<Connection>) {
        let mut state = lock(&self.state);
        if let State::First(queue) = std::mem::replace(&mut *state, State::Down) {
            for (request, reply) in queue {
                connection.send(request, reply);
            }
        }
        *state = State::Up(Arc::clone(connection));
        drop(state);
        let peer = self.target.peer;
        set_health(&self.health, peer, Health::Up { since: Instant::now() });
        tracing::info!(%peer, "connected to a peer");
    }

    /// Fails what waits and what comes; whether the peer was up.
    fn down(&self) -> bool {
        let before = std::mem::replace(&mut *lock(&self.state), State::Down);
        set_health(&self.health, self.target.peer, Health::Down);
        match before {
            State::First(queue) => queue.into_iter().for_each(|(_, reply)| fail(reply)),
            State::Up(connection) => {
                connection.close();
                return true;
            }
            State::Down => {}
        }
        false
    }
}

/// Changes what is known of a registered peer.
fn set_health(health: &watch::Sender<HealthMap>, peer: PeerId, found: Health) {
    health.send_if_modified(|map| match Arc::make_mut(map).get_mut(&peer) {
        Some(known) if *known != found => {
            *known = found;
            true
        }
        _ => false,
    });
}
