//! Linearizable reads: one question to the leader answers all who asked before it was sent.

use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{LinearizerOption, ReadPolicy};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::known_leader;
use crate::config::Raft;
use crate::error::ReadError;
use crate::metrics::Watcher;
use crate::transport::{Channels, read_index};

/// Reads that may wait; more are held back at the door.
const QUEUE: usize = 4096;
/// How long one attempt may take before the leader is looked up again.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Pause before another attempt, unless another leader is known earlier.
const RETRY: Duration = Duration::from_millis(50);

struct Waiter {
    deadline: Instant,
    done: oneshot::Sender<Result<(), ReadError>>,
}

/// The queue of those who wait and the task that serves it.
pub(super) struct Reads {
    queue: mpsc::Sender<Waiter>,
    task: JoinHandle<()>,
    raft: Raft,
}

impl Reads {
    pub(super) fn start(raft: Raft, channels: Channels) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let task = tokio::spawn(serve(raft.clone(), channels, waiting));
        Self { queue, task, raft }
    }

    pub(super) async fn linearize(&self, patience: Duration) -> Result<(), ReadError> {
        let deadline = Instant::now() + patience;
        let (done, answer) = oneshot::channel();
        let ask = async {
            self.queue.send(Waiter { deadline, done }).await.map_err(|_| ReadError::Stopped)?;
            answer.await.map_err(|_| ReadError::Stopped)?
        };
        match tokio::time::timeout_at(deadline, ask).await {
            Ok(answer) => answer,
            Err(_) => Err(ReadError::Unavailable { leader: known_leader(&self.raft) }),
        }
    }

    pub(super) fn stop(&self) {
        self.task.abort();
    }
}

async fn serve(raft: Raft, channels: Channels, mut waiting: mpsc::Receiver<Waiter>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, QUEUE).await > 0 {
        let Some(deadline) = batch.iter().map(|waiter| waiter.deadline).max() else { continue };
        let confirmed = confirm(&raft, &channels, deadline).await;
        for waiter in batch.drain(..) {
            let answer = match &confirmed {
                Ok(()) => Ok(()),
                Err(ReadError::Stopped) => Err(ReadError::Stopped),
                Err(ReadError::Unavailable { leader }) => {
                    Err(ReadError::Unavailable { leader: leader.clone() })
                }
            };
            // One whose own deadline has passed listens no more.
            drop(waiter.done.send(answer));
        }
    }
}

/// Learns from the leader what is committed, then waits until it is applied here.
async fn confirm(raft: &Raft, channels: &Channels, deadline: Instant) -> Result<(), ReadError> {
    let mut metrics = Watcher::of(raft);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReadError::Unavailable { leader: known_leader(raft) });
        }
        let leader = metrics.now().current_leader;
        if let Some(index) = ask(raft, channels, left.min(ATTEMPT)).await? {
            let applied =
                metrics.wait_for(|now| now.last_applied.is_some_and(|id| id.index >= index));
            return match tokio::time::timeout_at(deadline, applied).await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(ReadError::Stopped),
                Err(_) => Err(ReadError::Unavailable { leader: known_leader(raft) }),
            };
        }
        // A change of leader, most likely, is what makes the next attempt succeed. (Any change of
        // the metrics would not do: the attempt itself makes one, and so they would never pause.)
        let changed = metrics.wait_for(|now| now.current_leader != leader);
        if matches!(tokio::time::timeout(left.min(RETRY), changed).await, Ok(None)) {
            return Err(ReadError::Stopped);
        }
    }
}

/// One attempt to learn the read index; `None` if no leader gave one.
async fn ask(
    raft: &Raft,
    channels: &Channels,
    patience: Duration,
) -> Result<Option<u64>, ReadError> {
    let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(patience);
    let local = tokio::time::timeout(patience, raft.get_read_linearizer(option)).await;
    let leader = match local {
        Ok(Ok(linearizer)) => return Ok(Some(linearizer.read_log_id().index())),
        Ok(Err(RaftError::Fatal(_))) => return Err(ReadError::Stopped),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
            super::forward(to).or_else(|| known_leader(raft))
        }
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => None,
    };
    let own = *raft.node_id();
    match leader.filter(|leader| leader.node != own) {
        Some(leader) => Ok(read_index(channels, leader.node, &leader.address, patience).await),
        None => Ok(None),
    }
}
