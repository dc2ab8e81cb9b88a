//! The metadata service over the network: finds the leader, and repeats what was not answered.
//!
//! A command carries the same request identity each time, so it is applied once however often it
//! is sent. Reads are repeated freely.

mod attempt;
mod contacts;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::time::Instant;
use torus_dial::Dial;

use crate::error::call_failed;
use crate::machine::RequestId;
use crate::requests::Requests;
use crate::serve::{Backend, Freshness};
use crate::wire::{Failure, KeptAlive};
use crate::{
    Answer, Applied, Command, Error, EventKind, MetadataService, Query, Response, Revision,
    SessionId, WatchItem,
};
use attempt::Missed;
use contacts::Contacts;

/// How long a call is repeated.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long one member may take to answer; one that waits for a disk or an election needs some.
const ATTEMPT: Duration = Duration::from_secs(4);
/// The first pause when nobody could answer; it doubles, up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LAST: Duration = Duration::from_millis(200);
/// The pause while the leader's disk is full.
const PAUSE_FULL: Duration = Duration::from_secs(2);
/// A watch of which nothing was heard for so long is broken; three progress marks are missing.
const WATCH_SILENCE: Duration = Duration::from_secs(7);

/// A client of the metadata service, given the addresses of some of its members. Clones share what
/// they learn.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Duration,
    /// Whether only the member in this process is asked.
    alone: bool,
    freshness: Freshness,
}

struct Shared {
    contacts: Mutex<Contacts>,
    requests: Requests,
    local: Option<Local>,
}

/// The member in this process.
struct Local {
    address: String,
    backend: Arc<dyn Backend>,
}

/// One call, whichever it is.
#[derive(Clone, Debug)]
enum Call {
    Execute(RequestId, Command),
    Query(Query, Freshness),
    KeepAlive(SessionId),
}

/// What a call gave.
enum Reply {
    Response(Response),
    Answer(Answer),
    KeptAlive(KeptAlive),
}

impl Client {
    /// A client of the cluster that the members at `addresses` (each `HOST:PORT`) belong to. Nothing
    /// is connected before the first call.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        Self::over(Dial::default(), addresses)
    }

    /// As [`new`](Self::new), over connections of another kind.
    pub fn over(dial: Dial, addresses: impl IntoIterator<Item = String>) -> Self {
        Self::build(addresses, dial, None)
    }

    /// As [`new`](Self::new), from a comma-separated list.
    pub fn parse(addresses: &str) -> Self {
        let parts = addresses.split(',').map(str::trim).filter(|part| !part.is_empty());
        Self::new(parts.map(str::to_owned))
    }

    /// A client that asks the member in this process first, without a socket.
    #[cfg(feature = "member")]
    pub(crate) fn local(dial: Dial, address: String, backend: Arc<dyn Backend>) -> Self {
        Self::build([address.clone()], dial, Some(Local { address, backend }))
    }

    /// The same client, whose calls give up after `deadline`.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same client, whose queries any member answers by what it knows. That may be old: its
    /// answers are for people to look at, where there is no majority to ask.
    #[must_use]
    pub fn stale(&self) -> Self {
        Self { freshness: Freshness::Stale, ..self.clone() }
    }

    /// The same client, whose queries only the member in this process answers. An address may have
    /// come to belong to another cluster; what is deleted on an answer must not depend on it.
    #[cfg(feature = "member")]
    #[must_use]
    pub(crate) fn alone(&self) -> Self {
        Self { alone: true, ..self.clone() }
    }

    /// The members that are known at present, the leader first if it is known.
    pub fn members(&self) -> Vec<String> {
        self.contacts(|contacts| contacts.order())
    }

    fn build(
        addresses: impl IntoIterator<Item = String>,
        dial: Dial,
        local: Option<Local>,
    ) -> Self {
        let contacts = Mutex::new(Contacts::new(addresses, dial));
        let shared = Shared { contacts, requests: Requests::default(), local };
        let freshness = Freshness::Linearizable;
        Self { shared: Arc::new(shared), deadline: DEADLINE, alone: false, freshness }
    }

    fn contacts<T>(&self, use_it: impl FnOnce(&mut Contacts) -> T) -> T {
        use_it(&mut self.shared.contacts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tries members until one gives an answer or the time is over.
    async fn call(&self, call: Call) -> Result<Reply, Error> {
        let end = now() + self.deadline;
        let mut pause = PAUSE_FIRST;
        let mut is_undecided = false;
        loop {
            let mut round = Round { is_undecided, ..Round::default() };
            let mut hints = Vec::new();
            let order = match (&self.shared.local, &call) {
                // A read needs no leader on the spot, so the nearest member comes first.
                (Some(local), Call::Query(..)) => {
                    self.contacts(|contacts| contacts.order_from(&local.address))
                }
                _ => self.contacts(|contacts| contacts.order()),
            };
            let mut queue = std::collections::VecDeque::from(order);
            while let Some(address) = queue.pop_front() {
                let patience = ATTEMPT.min(end.saturating_duration_since(now()));
                match self.attempt(&address, &call, patience).await {
                    Ok(reply) => return Ok(reply),
                    Err(Missed::Failure(Failure::NotLeader { leader: Some(leader) }))
                        if !self.alone && leader != address && !hints.contains(&leader) =>
                    {
                        // Each hint is followed once a round: two members may name each other.
                        hints.push(leader.clone());
                        self.contacts(|contacts| contacts.set_leader(&leader));
                        queue.retain(|other| *other != leader);
                        queue.push_front(leader);
                    }
                    Err(missed) => round.note(address, missed)?,
                }
                if now() >= end {
                    break;
                }
            }
            is_undecided = round.is_undecided;
            let left = end.saturating_duration_since(now());
            if let Some(error) = round.verdict(left.is_zero()) {
                return Err(error);
            }
            // A little randomness, so that many clients do not come back at once.
            let jitter = rand::random_range(0.5..1.0);
            tokio::time::sleep(pause.mul_f64(jitter).min(left)).await;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }

    /// One watch of one member.
    fn watch_from(
        &self,
        from: Option<Revision>,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        if let Some(local) = &self.shared.local {
            return local.backend.watch(from, kinds);
        }
        attempt::watch(self.clone(), from, kinds).boxed()
    }

    async fn attempt(
        &self,
        address: &str,
        call: &Call,
        patience: Duration,
    ) -> Result<Reply, Missed> {
        if let Some(local) = self.shared.local.as_ref().filter(|local| local.address == address) {
            return match tokio::time::timeout(patience, attempt::here(&local.backend, call)).await {
                Ok(answer) => answer.map_err(Missed::Failure),
                Err(_) => Err(Missed::Failure(Failure::Unavailable)),
            };
        }
        let channel = self.contacts(|contacts| contacts.channel(address))?;
        match tokio::time::timeout(patience, attempt::there(channel, call)).await {
            Ok(Ok((reply, members))) => {
                self.contacts(|contacts| contacts.learn(members));
                match reply {
                    Ok(reply) => {
                        if matches!(call, Call::Execute(..) | Call::KeepAlive(_)) {
                            self.contacts(|contacts| contacts.set_leader(address));
                        }
                        Ok(reply)
                    }
                    Err(failure) => {
                        self.contacts(|contacts| contacts.no_leader(address));
                        Err(Missed::Failure(failure))
                    }
                }
            }
            Ok(Err(missed)) => {
                self.contacts(|contacts| contacts.lost(address));
                Err(missed)
            }
            Err(_) => {
                self.contacts(|contacts| contacts.lost(address));
                Err(Missed::Failure(Failure::Unavailable))
            }
        }
    }
}

/// What the members said in one round of asking all of them.
#[derive(Default)]
struct Round {
    tried: Vec<String>,
    uninitialised: Option<String>,
    members: bool,
    full: Option<String>,
    /// A member has taken the call, and did not say what came of it.
    is_undecided: bool,
    source: Option<tonic::Status>,
}

impl Round {
    /// Notes a missed attempt; an answer that makes no sense ends the call.
    fn note(&mut self, address: String, missed: Missed) -> Result<(), Error> {
        match missed {
            Missed::Failure(Failure::NotInitialised) => {
                self.uninitialised = Some(address.clone());
            }
            Missed::Failure(Failure::NoSpace) => {
                self.members = true;
                self.full = Some(address.clone());
            }
            Missed::Failure(failure) => {
                self.members = true;
                self.is_undecided |= matches!(failure, Failure::Unavailable);
            }
            Missed::Status(status) => self.source = Some(*status),
            Missed::Malformed(malformed) => return Err(malformed.into()),
            Missed::Address => return Err(Error::Protocol { what: "the address of a member" }),
        }
        self.tried.push(address);
        Ok(())
    }

    /// The error to give up with, if there is no hope or no time.
    fn verdict(self, time_is_over: bool) -> Option<Error> {
        // That nothing was changed can be said only if no attempt may have done it.
        if let Some(address) = self.full.filter(|_| !self.is_undecided) {
            return Some(Error::NoSpace { address });
        }
        match self.uninitialised {
            Some(address) if !self.members => Some(Error::NotInitialised { address }),
            _ if time_is_over => Some(Error::Unavailable {
                tried: self.tried.join(", "),
                source: self.source.map(call_failed),
            }),
            _ => None,
        }
    }
}

impl MetadataService for Client {
    fn execute(&self, command: Command) -> BoxFuture<'_, Result<Applied, Error>> {
        async {
            let request = self.shared.requests.begin();
            match self.call(Call::Execute(request, command)).await? {
                Reply::Response(response) => {
                    self.shared.requests.end(request);
                    Ok(response?)
                }
                _ => Err(Error::Protocol { what: "the answer to a command" }),
            }
        }
        .boxed()
    }

    fn execute_until_answered(&self, command: Command) -> BoxFuture<'_, Result<Applied, Error>> {
        async move {
            let request = self.shared.requests.begin();
            loop {
                match self.call(Call::Execute(request, command.clone())).await {
                    Ok(Reply::Response(response)) => {
                        self.shared.requests.end(request);
                        return Ok(response?);
                    }
                    Ok(_) => return Err(Error::Protocol { what: "the answer to a command" }),
                    Err(error @ Error::Unavailable { .. }) => {
                        tracing::warn!(%error, "waiting for the metadata service");
                        tokio::time::sleep(PAUSE_LAST).await;
                    }
                    Err(error @ Error::NoSpace { .. }) => {
                        tracing::warn!(%error, "waiting for space");
                        tokio::time::sleep(PAUSE_FULL).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        .boxed()
    }

    fn query(&self, query: Query) -> BoxFuture<'_, Result<Answer, Error>> {
        async {
            match self.call(Call::Query(query, self.freshness)).await? {
                Reply::Answer(answer) => Ok(answer),
                _ => Err(Error::Protocol { what: "the answer to a query" }),
            }
        }
        .boxed()
    }

    fn watch(
        &self,
        from: Revision,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        self.watch_from(Some(from), kinds)
    }

    fn list_and_watch(
        &self,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        self.watch_from(None, kinds)
    }

    fn keep_alive(&self, session: SessionId) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            match self.call(Call::KeepAlive(session)).await? {
                Reply::KeptAlive(kept) => Ok(kept?),
                _ => Err(Error::Protocol { what: "the answer to a keep-alive" }),
            }
        }
        .boxed()
    }
}

fn now() -> Instant {
    Instant::now()
}
