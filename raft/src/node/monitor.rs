//! Follows openraft's metrics and the disk for those who must act on a change.

use std::sync::Arc;
use std::time::Duration;

use openraft::errors::Fatal;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::membership::successor;
use crate::config::Raft;
use crate::error::Failure;
use crate::log::Health;
use crate::metrics::Watcher;
use crate::status::Leadership;

/// What the watchdog takes for a disk that works.
#[derive(Clone, Copy)]
pub(super) struct DiskLimits {
    /// How often the age of the write under way is looked at.
    check: Duration,
    /// After this, another node should lead: heartbeats go on without the disk, so no other node
    /// would start an election by itself.
    slow: Duration,
    /// After this, the node is of no use to anyone.
    dead: Duration,
}

impl Default for DiskLimits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { check: seconds(1), slow: seconds(5), dead: seconds(30) }
    }
}

/// Publishes who leads, until the node stops.
pub(super) fn leadership(raft: &Raft) -> (watch::Receiver<Leadership>, JoinHandle<()>) {
    let mut metrics = Watcher::of(raft);
    let (publish, published) = watch::channel(Leadership::of(&metrics.now()));
    let follow = async move {
        while let Some(now) = metrics.next().await {
            let now = Leadership::of(&now);
            publish.send_if_modified(|last| {
                let changed = *last != now;
                *last = now;
                changed
            });
        }
    };
    (published, tokio::spawn(follow))
}

/// Publishes the failure of openraft or of the disk, once.
pub(super) fn failure(
    raft: &Raft,
    health: Arc<Health>,
    limits: DiskLimits,
) -> (watch::Receiver<Option<Failure>>, JoinHandle<()>) {
    let (publish, published) = watch::channel(None);
    let raft = raft.clone();
    let follow = async move {
        let failure = tokio::select! {
            reason = fatal(&raft) => Failure::Fatal { reason },
            waited = stall(&raft, &health, limits) => {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                Failure::Stalled { waited_ms }
            }
        };
        tracing::error!(%failure, "the Raft node has failed");
        publish.send_replace(Some(failure));
    };
    (published, tokio::spawn(follow))
}

/// Ends when openraft has stopped by itself.
async fn fatal(raft: &Raft) -> String {
    let mut metrics = Watcher::of(raft);
    let mut now = metrics.now();
    loop {
        match now.running_state {
            Err(Fatal::Stopped) => std::future::pending().await,
            Err(fatal) => return fatal.to_string(),
            Ok(()) => {}
        }
        now = match metrics.next().await {
            Some(next) => next,
            None => return "its core is gone".to_owned(),
        };
    }
}

/// Ends when a write to the log takes longer than a working disk would need.
async fn stall(raft: &Raft, health: &Health, limits: DiskLimits) -> Duration {
    let mut handed_over = false;
    loop {
        tokio::time::sleep(limits.check).await;
        let busy = health.busy_for();
        if busy >= limits.dead {
            return busy;
        }
        if busy < limits.slow {
            handed_over = false;
        } else if !handed_over {
            handed_over = true;
            let metrics = Watcher::of(raft).now();
            tracing::error!(busy_ms = busy.as_millis(), "the disk of the Raft log is stuck");
            if let Some(to) = successor(&metrics).filter(|_| metrics.state.is_leader())
                && let Err(err) = raft.trigger().transfer_leader(to).await
            {
                tracing::warn!(error = %err, to, "cannot hand the leadership over");
            }
        }
    }
}

#[cfg(test)]
#[cfg(feature = "rocksdb")]
mod tests {
    use super::super::tests::three;
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_leader_whose_disk_is_stuck_hands_over_and_then_gives_up() {
        let [first, second, third] = three(1000).await;
        let health = Arc::new(Health::default());
        health.set_busy(true);
        let milliseconds = Duration::from_millis;
        let (check, slow) = (milliseconds(10), milliseconds(50));
        let limits = DiskLimits { check, slow, dead: milliseconds(5000) };
        let (mut failure, task) = super::failure(&first.node.raft, health, limits);
        first
            .until("another leader", |now| now.leader.as_ref().is_some_and(|to| to.node != 1))
            .await;
        let found = failure.wait_for(Option::is_some).await.unwrap().clone();
        assert!(matches!(found, Some(Failure::Stalled { .. })), "{found:?}");
        task.await.unwrap();
        for member in [first, second, third] {
            member.stop().await;
        }
    }
}
