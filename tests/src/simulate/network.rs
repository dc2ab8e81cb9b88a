//! The simulated network: how long messages take, which ways are cut, and who is paused.
//!
//! Ways are one-directional, from one host to another; a cut blocks those of a set of hosts to
//! another set. Who has a message for a way that is cut decides whether it waits or is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Context;
use super::chance::Chance;
use super::connection::{Connection, SILENCE_LIMIT};

/// A machine, as a bit in a set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host(pub(crate) u32);

/// Where the metadata service runs.
pub(crate) const META: Host = Host(31);
/// The first of the clients' hosts; below are the nodes'.
pub(crate) const FIRST_CLIENT: u32 = 16;

/// A set of hosts.
pub(crate) type Hosts = u32;

impl Host {
    pub(crate) fn set(self) -> Hosts {
        1 << self.0
    }
}

/// One life of a program on a host.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) host: Host,
    pub(crate) number: u64,
    dead: AtomicBool,
}

impl Process {
    pub(crate) fn new(host: Host, number: u64) -> Arc<Self> {
        Arc::new(Self { host, number, dead: AtomicBool::new(false) })
    }

    /// What it has sent is still under way; it sends nothing more and hears nothing.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Never returns to a dead process.
    pub(crate) async fn only_alive<T>(&self, value: T) -> T {
        if self.is_dead() { std::future::pending().await } else { value }
    }
}

/// The ways between all hosts.
pub(crate) struct Network {
    context: Arc<Context>,
    chance: Chance,
    state: Mutex<State>,
    healed: Notify,
}

#[derive(Default)]
struct State {
    cuts: BTreeMap<u64, (Hosts, Hosts)>,
    next_cut: u64,
    paused: BTreeMap<Host, Instant>,
    connections: BTreeMap<u64, Weak<Connection>>,
    next_connection: u64,
}

impl Network {
    pub(crate) fn new(context: Arc<Context>) -> Arc<Self> {
        let chance = Chance::new(context.seed, "network");
        Arc::new(Self { context, chance, state: Mutex::default(), healed: Notify::new() })
    }

    /// How long a message takes.
    pub(crate) fn delay(&self) -> Duration {
        let swarm = &self.context.swarm;
        let usual = self.chance.millis(swarm.delay_ms.clone());
        let lags = self.chance.happens(swarm.lag);
        let lag = self.chance.within(0..4000);
        // Mostly short ones: the square of a uniform number.
        let lag = Duration::from_millis(lag * lag / 4000);
        if lags && !self.context.is_calm() { usual + lag } else { usual }
    }

    /// When a message that leaves `from` now arrives, if nothing holds it up.
    pub(crate) fn arrival(&self, from: Host) -> Instant {
        self.paused_until(from).unwrap_or_else(Instant::now) + self.delay()
    }

    /// Whether a message is lost.
    pub(crate) fn loses(&self) -> bool {
        self.chance.happens(self.context.swarm.loss) && !self.context.is_calm()
    }

    pub(crate) fn coin(&self) -> bool {
        self.chance.happens(500_000)
    }

    pub(crate) fn is_cut(&self, from: Host, to: Host) -> bool {
        let state = self.lock();
        state.cuts.values().any(|(froms, tos)| froms & from.set() != 0 && tos & to.set() != 0)
    }

    /// Waits until the way is not cut; whether it was.
    pub(crate) async fn passable(&self, from: Host, to: Host) -> bool {
        let mut was_cut = false;
        loop {
            let healed = self.healed.notified();
            if !self.is_cut(from, to) {
                return was_cut;
            }
            was_cut = true;
            healed.await;
        }
    }

    /// Waits while `host` is paused.
    pub(crate) async fn awake(&self, host: Host) {
        while let Some(until) = self.paused_until(host) {
            tokio::time::sleep_until(until).await;
        }
    }

    /// Cuts all ways from one set of hosts to another; the cut's name.
    pub(crate) fn cut(self: &Arc<Self>, from: Hosts, to: Hosts) -> u64 {
        let mut state = self.lock();
        let cut = state.next_cut;
        state.next_cut += 1;
        state.cuts.insert(cut, (from, to));
        drop(state);
        self.context.trace.note("cut", &[cut, from.into(), to.into()]);
        self.break_silent(from, to, move |network| network.lock().cuts.contains_key(&cut));
        cut
    }

    pub(crate) fn heal(&self, cut: u64) {
        if self.lock().cuts.remove(&cut).is_some() {
            self.context.trace.note("heal", &[cut]);
        }
        self.healed.notify_waiters();
    }

    /// Undoes all cuts and pauses.
    pub(crate) fn heal_all(&self) {
        let mut state = self.lock();
        state.cuts.clear();
        state.paused.clear();
        drop(state);
        self.healed.notify_waiters();
    }

    /// Stops the processes of a host for a while.
    pub(crate) fn pause(self: &Arc<Self>, host: Host, time: Duration) {
        self.context.trace.note("pause", &[host.0.into(), millis(time)]);
        let until = Instant::now() + time;
        self.lock().paused.insert(host, until);
        self.break_silent(Hosts::MAX, host.set(), move |network| {
            network.paused_until(host).is_some_and(|now| now == until)
        });
    }

    pub(crate) fn paused_until(&self, host: Host) -> Option<Instant> {
        self.lock().paused.get(&host).copied().filter(|&until| Instant::now() < until)
    }

    /// Closes the connections that hear nothing because of what `lasts` for too long.
    fn break_silent(
        self: &Arc<Self>,
        from: Hosts,
        to: Hosts,
        lasts: impl Fn(&Self) -> bool + Send + 'static,
    ) {
        let network = Arc::clone(self);
        let is_hit = move |connection: &Connection| {
            let (client, node) = connection.hosts();
            let hits = |a: Host, b: Host| from & a.set() != 0 && to & b.set() != 0;
            hits(client, node) || hits(node, client)
        };
        tokio::spawn(async move {
            sleep(SILENCE_LIMIT).await;
            if lasts(&network) {
                network.connections().iter().filter(|it| is_hit(it)).for_each(|it| it.close());
            }
        });
    }

    /// Takes a new connection up; its number.
    pub(crate) fn register(&self, make: impl FnOnce(u64) -> Arc<Connection>) -> Arc<Connection> {
        let mut state = self.lock();
        let number = state.next_connection;
        state.next_connection += 1;
        let connection = make(number);
        state.connections.retain(|_, it| it.strong_count() > 0);
        state.connections.insert(number, Arc::downgrade(&connection));
        connection
    }

    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        self.lock().connections.values().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
