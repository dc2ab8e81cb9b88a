//! Reads and follows openraft's metrics.

use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;

use crate::config::{Metrics, Raft, TypeConfig};

/// A follower of the metrics of one node.
///
/// It gives out copies: openraft cannot publish newer metrics while it lends them, and would
/// block its core.
pub(crate) struct Watcher(WatchReceiverOf<TypeConfig, Metrics>);

impl Watcher {
    pub(crate) fn of(raft: &Raft) -> Self {
        Self(raft.metrics())
    }

    /// The newest metrics.
    pub(crate) fn now(&mut self) -> Metrics {
        self.0.borrow_and_update().clone()
    }

    /// Waits for metrics newer than those that [`now`](Self::now) gave out; `None` if there will
    /// be none.
    pub(crate) async fn next(&mut self) -> Option<Metrics> {
        self.0.changed().await.ok()?;
        Some(self.now())
    }

    /// Waits until `condition` holds; `None` if the node stops before.
    pub(crate) async fn wait_for(
        &mut self,
        condition: impl Fn(&Metrics) -> bool,
    ) -> Option<Metrics> {
        let mut now = self.now();
        loop {
            if now.running_state.is_err() {
                return None;
            }
            if condition(&now) {
                return Some(now);
            }
            now = self.next().await?;
        }
    }
}
