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

/// How often the age of the write under way is looked at.
const DISK_CHECK: Duration = Duration::from_secs(1);
/// After this, another node should lead: heartbeats go on without the disk, so no other node
/// would start an election by itself.
const DISK_SLOW: Duration = Duration::from_secs(5);
/// After this, the node is of no use to anyone.
const DISK_DEAD: Duration = Duration::from_secs(30);

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
) -> (watch::Receiver<Option<Failure>>, JoinHandle<()>) {
    let (publish, published) = watch::channel(None);
    let raft = raft.clone();
    let follow = async move {
        let failure = tokio::select! {
            reason = fatal(&raft) => Failure::Fatal { reason },
            waited = stall(&raft, &health) => {
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
async fn stall(raft: &Raft, health: &Health) -> Duration {
    let mut handed_over = false;
    loop {
        tokio::time::sleep(DISK_CHECK).await;
        let busy = health.busy_for();
        if busy >= DISK_DEAD {
            return busy;
        }
        if busy < DISK_SLOW {
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
