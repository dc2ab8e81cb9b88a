//! What the tasks and the calls of one member share, and how it answers calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use torus_blockstore::{Epoch, PeerId};
use torus_raft::{Leader, RaftNode, WriteError};
use uuid::Uuid;

use super::gate::Gate;
use super::lifecycle::Order;
use super::machine::Applier;
use super::reign::{self, Reign};
use super::{MemberOptions, MemberState, Tuning, group, touch};
use crate::admin::Membership;
use crate::deadlines::Heard;
use crate::machine::{Proposal, RequestId};
use crate::planted::{Planted, is_planted};
use crate::replica::Replica;
use crate::serve::{Backend, Freshness};
use crate::wire::{Failure, KeptAlive, decode_response, encode_proposal};
use crate::{
    Answer, Applied, Client, Command, Error, EventKind, NodeId, Outcome, Query, Refusal, Response,
    Revision, SessionId, WatchItem,
};

/// How long one attempt may take before the caller looks for another leader.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct Core {
    pub(super) options: MemberOptions,
    pub(super) tuning: Tuning,
    pub(super) replica: Arc<Replica>,
    node: RwLock<Option<Arc<RaftNode>>>,
    gate: Gate,
    state: watch::Sender<MemberState>,
    /// Where the group's members listen.
    pub(super) addresses: watch::Sender<Vec<String>>,
    /// Whether a leader was in reach lately.
    pub(super) in_touch: watch::Sender<bool>,
    pub(super) reign: Mutex<Option<Reign>>,
    /// The daemons that asked to join this one while it belonged to no cluster, and when.
    pub(super) applicants: Mutex<BTreeMap<PeerId, Instant>>,
    pub(super) orders: mpsc::Sender<Order>,
    /// Whose turn it is to change the group.
    pub(super) turn: Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Core {
    pub(super) fn new(options: MemberOptions, tuning: Tuning, orders: mpsc::Sender<Order>) -> Self {
        let own = vec![options.address.clone()];
        let dial = tuning.dial.clone().greeting(&torus_raft::MEMBER);
        Self {
            options,
            tuning: Tuning { dial, ..tuning },
            replica: Arc::new(Replica::new()),
            node: RwLock::default(),
            gate: Gate::default(),
            state: watch::Sender::new(MemberState::WaitingForInit),
            addresses: watch::Sender::new(own),
            in_touch: watch::Sender::new(true),
            reign: Mutex::default(),
            applicants: Mutex::default(),
            orders,
            turn: Semaphore::new(1),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn raft_options(&self) -> torus_raft::Options {
        let storage = self.tuning.storage.clone();
        torus_raft::Options {
            timing: self.tuning.timing,
            snapshot_after: self.tuning.snapshot_after,
            keep_entries: self.tuning.keep_entries,
            dial: self.tuning.dial.clone(),
            ..torus_raft::Options::on(storage, &self.options.dir, &self.options.address)
        }
    }

    /// The members that it was told to join. All daemons may be told the same, so itself is left out.
    pub(super) fn targets(&self) -> Vec<String> {
        let others = self.options.join.iter().filter(|address| **address != self.options.address);
        others.cloned().collect()
    }

    pub(super) fn machine(&self) -> Applier {
        Applier(Arc::clone(&self.replica))
    }

    pub(super) fn gate(&self) -> Gate {
        self.gate.clone()
    }

    pub(super) fn members(&self) -> watch::Receiver<Vec<String>> {
        self.addresses.subscribe()
    }

    pub(super) fn state(&self) -> watch::Receiver<MemberState> {
        self.state.subscribe()
    }

    pub(super) fn set_state(&self, state: MemberState) {
        self.state.send_replace(state);
    }

    /// A client that asks this member first.
    pub(super) fn client(self: &Arc<Self>) -> Client {
        let backend = Arc::clone(self) as Arc<dyn Backend>;
        Client::local(self.tuning.dial.clone(), self.options.address.clone(), backend)
    }

    pub(super) fn node(&self) -> Option<Arc<RaftNode>> {
        self.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node, or the failure of a daemon that has none.
    pub(super) fn member(&self) -> Result<Arc<RaftNode>, Failure> {
        self.node().ok_or(Failure::NotInitialised)
    }

    /// Takes a node into service; from now on the daemon is a member.
    pub(super) fn install(self: &Arc<Self>, node: RaftNode) {
        let node = Arc::new(node);
        self.gate.set(Some(node.transport()));
        *self.node.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&node));
        self.spawn(reign::watch_sessions(Arc::clone(self), Arc::clone(&node)));
        self.spawn(group::tend(Arc::clone(self), Arc::clone(&node)));
        self.spawn(touch::keep(Arc::clone(self), Arc::clone(&node)));
        let (core, failed) = (Arc::clone(self), node.failed());
        self.spawn(async move {
            let failure = failed.await;
            core.set_state(MemberState::Failed(Arc::new(failure)));
        });
    }

    /// Says that the node runs.
    pub(super) fn run(&self) {
        if let Some(node) = self.node() {
            let (cluster, node) = (self.cluster(&node), NodeId(node.identity().node));
            self.set_state(MemberState::Running { cluster, node });
        }
    }

    /// How many members vote at most, as far as this one knows.
    pub(super) fn voters_max(&self) -> usize {
        usize::try_from(self.replica.read().state.group.voters_max).unwrap_or(usize::MAX)
    }

    pub(super) fn cluster(&self, node: &RaftNode) -> Uuid {
        Uuid::from_bytes(node.identity().cluster)
    }

    /// A place in the group of `node`.
    pub(super) fn place(&self, node: &RaftNode, id: NodeId) -> Membership {
        let group = Uuid::from_bytes(node.identity().group);
        Membership { cluster: self.cluster(node), group, node: id }
    }

    /// Gives the leadership to another voter, if this member has it.
    pub(super) async fn hand_over(&self) {
        if let Some(node) = self.node()
            && node.leadership().borrow().is_self
            && let Err(err) = node.transfer_leader(None).await
        {
            tracing::debug!(error = %err, "the leadership was not handed over");
        }
    }

    /// Ends the tasks, and calls that are under way.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.gate.set(None);
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn take_node(&self) -> Option<Arc<RaftNode>> {
        self.node.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Runs a task until the member stops.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(task).await });
    }

    /// Runs a call, unless the member stops meanwhile.
    pub(super) async fn call<T, E: From<Failure>>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let result = self.stop.run_until_cancelled(call).await;
        result.unwrap_or_else(|| Err(Failure::Unavailable.into()))
    }

    /// Puts an entry into the log, on the leader.
    pub(super) async fn propose(
        &self,
        node: &RaftNode,
        proposal: Proposal,
    ) -> Result<Response, Failure> {
        match node.write(encode_proposal(proposal), PATIENCE).await {
            // The member itself has encoded it.
            Ok(response) => decode_response(&response).map_err(|_| Failure::Unavailable),
            Err(WriteError::NotLeader { leader }) => Err(not_leader(node, leader)),
            Err(WriteError::TooLarge { .. }) => Ok(Err(Refusal::TOO_LARGE)),
            Err(_) => Err(Failure::Unavailable),
        }
    }

    pub(super) fn reign(&self) -> MutexGuard<'_, Option<Reign>> {
        self.reign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hear(&self, session: SessionId) -> Result<KeptAlive, Failure> {
        let node = self.member()?;
        let leadership = node.leadership().borrow().clone();
        if !leadership.is_self {
            return Err(not_leader(&node, leadership.leader));
        }
        // Confirms that no other member leads, so none can be ending the session.
        linearize(&node).await?;
        let machine = self.replica.read();
        let mut reign = self.reign();
        let Some(reign) = reign.as_mut().filter(|reign| reign.tenure == machine.tenure) else {
            // It has not begun to listen yet, or another has.
            return Err(Failure::Unavailable);
        };
        let now = reign::now();
        reign.deadlines.follow(machine.state.sessions(), now, Duration::ZERO);
        match reign.deadlines.heard(session, now) {
            Heard::Prolonged => Ok(Ok(())),
            Heard::Unknown => Ok(Err(Refusal::NoSuchSession)),
            Heard::Ending => Err(Failure::Unavailable),
        }
    }
}

impl Backend for Core {
    fn execute(
        &self,
        request: RequestId,
        command: Command,
    ) -> BoxFuture<'_, Result<Response, Failure>> {
        self.call(async move {
            let node = self.member()?;
            // A member that does not lead names the one that does, whatever its own disk is like.
            if node.is_full() && node.leadership().borrow().is_self {
                return Err(Failure::NoSpace);
            }
            let mut response = self.propose(&node, Proposal::Command { request, command }).await?;
            if let Ok(Applied { outcome: Outcome::Epoch(epoch), .. }) = &mut response
                && is_planted(Planted::TermAsEpoch)
            {
                *epoch = Epoch(node.status().term);
            }
            Ok(response)
        })
        .boxed()
    }

    fn query(&self, query: Query, freshness: Freshness) -> BoxFuture<'_, Result<Answer, Failure>> {
        self.call(async move {
            let node = self.member()?;
            match freshness {
                Freshness::Linearizable if !is_planted(Planted::StaleRead) => {
                    linearize(&node).await?
                }
                Freshness::Linearizable | Freshness::Stale => {}
            }
            Ok(self.replica.answer(&query))
        })
        .boxed()
    }

    fn keep_alive(&self, session: SessionId) -> BoxFuture<'_, Result<KeptAlive, Failure>> {
        self.call(self.hear(session)).boxed()
    }

    fn watch(
        &self,
        from: Option<Revision>,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        let address = self.options.address.clone();
        let Some(node) = self.node() else {
            let error = Error::NotInitialised { address };
            return futures::stream::iter([Err(error)]).boxed();
        };
        let unavailable = Error::Unavailable { tried: address.clone(), source: None };
        let (mut in_touch, stop) = (self.in_touch.subscribe(), self.stop.clone());
        let stopped = stop.clone();
        let items = self.replica.watch(from, kinds, async move {
            // What this member has applied may be old by now: the watcher should ask another.
            stop.run_until_cancelled(in_touch.wait_for(|in_touch| !in_touch)).await;
            Error::Unavailable { tried: address, source: None }
        });
        if from.is_some() {
            return items;
        }
        let ready = async move {
            let fresh = stopped.run_until_cancelled(linearize(&node)).await;
            match fresh {
                Some(Ok(())) => items,
                Some(Err(_)) | None => futures::stream::iter([Err(unavailable)]).boxed(),
            }
        };
        futures::stream::once(ready).flatten().boxed()
    }
}

/// Waits until everything that was committed is applied here.
pub(super) async fn linearize(node: &RaftNode) -> Result<(), Failure> {
    node.linearize(PATIENCE).await.map_err(|_| Failure::Unavailable)
}

/// The failure that names the leader, unless that would be this very member, which is not ready.
pub(super) fn not_leader(node: &RaftNode, leader: Option<Leader>) -> Failure {
    let leader = leader.filter(|leader| leader.node != node.identity().node);
    Failure::NotLeader { leader: leader.map(|leader| leader.address) }
}
