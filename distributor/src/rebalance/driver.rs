//! Carries the plan out: looks at every local block whenever something changed that may misplace
//! it, and every few minutes in any case.
//!
//! Requests to this node go the same way as those to others, so that the rules of
//! [`Keeper`](crate::Keeper) hold for its own daemon too.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use torus_blockstore::PeerId;
use torus_metadata::MetadataService;

use super::pass::{Outcome, Pass};
use super::repair::repair;
use crate::keeper::Keeper;
use crate::{Health, HealthMap, PeerServer, Peers, View};

/// The longest time between two passes.
const PERIOD: Duration = Duration::from_secs(300);

/// The pause before a pass that others have to prepare, or that failed somewhere, doubled for each
/// that gets no further.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a change waits for others that come with it.
const FLOCK: Duration = Duration::from_millis(500);

/// Where work that waits for the disk is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreWork {
    /// On threads that may block.
    OnThreads,
    /// On the task that needs it, for a disk that makes nobody wait: a simulated one.
    InPlace,
}

/// Looks after the blocks of one node; ends when dropped.
pub struct Rebalancer {
    trigger: Arc<Notify>,
    _tasks: [AbortOnDropHandle<()>; 3],
}

/// What the tasks need to reach.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) me: PeerId,
    pub(super) keeper: Arc<Keeper>,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) metadata: Arc<dyn MetadataService>,
    pub(super) view: watch::Receiver<View>,
    work: StoreWork,
}

impl Surroundings {
    /// Does something with the store that may wait for the disk; `None`: it panicked.
    pub(super) async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Keeper) -> T + Send + 'static,
    ) -> Option<T> {
        match self.work {
            StoreWork::InPlace => Some(work(&self.keeper)),
            StoreWork::OnThreads => {
                let keeper = Arc::clone(&self.keeper);
                tokio::task::spawn_blocking(move || work(&keeper)).await.ok()
            }
        }
    }
}

impl Rebalancer {
    /// Starts to look after the blocks of `server`. `peers` must know it as the local one, and
    /// `view` must follow the volumes. Must be called on a tokio runtime.
    pub fn start(
        server: &PeerServer,
        peers: Arc<dyn Peers>,
        metadata: Arc<dyn MetadataService>,
        view: watch::Receiver<View>,
    ) -> Self {
        let (me, keeper) = (server.identity().peer, Arc::clone(server.keeper()));
        Self::start_over(me, keeper, peers, metadata, view, StoreWork::OnThreads)
    }

    /// As [`start`](Self::start), for blocks that something else than a [`PeerServer`] serves.
    pub fn start_over(
        me: PeerId,
        keeper: Arc<Keeper>,
        peers: Arc<dyn Peers>,
        metadata: Arc<dyn MetadataService>,
        view: watch::Receiver<View>,
        work: StoreWork,
    ) -> Self {
        let surroundings = Surroundings { me, keeper, peers, metadata, view, work };
        let trigger = Arc::new(Notify::new());
        let tasks = [
            tokio::spawn(follow_ring(surroundings.clone())),
            tokio::spawn(repair_suspects(surroundings.clone())),
            tokio::spawn(keep_balance(surroundings, Arc::clone(&trigger))),
        ];
        Self { trigger, _tasks: tasks.map(AbortOnDropHandle::new) }
    }

    /// Begins a pass now, or right after the present one.
    pub fn trigger(&self) {
        self.trigger.notify_one();
    }
}

/// Tells the keeper of every ring at once, also while a pass for an older one is under way.
async fn follow_ring(surroundings: Surroundings) {
    let mut view = surroundings.view.clone();
    loop {
        let version = view.borrow_and_update().ring.as_ref().map(|ring| ring.version());
        if let Some(version) = version {
            surroundings.keeper.enter_ring(version);
        }
        if view.changed().await.is_err() {
            return;
        }
    }
}

async fn repair_suspects(surroundings: Surroundings) {
    loop {
        for block in surroundings.keeper.suspects().await {
            repair(&surroundings, block).await;
        }
    }
}

async fn keep_balance(surroundings: Surroundings, trigger: Arc<Notify>) {
    let mut causes = Causes::new(&surroundings);
    let mut pause = SHORTEST_PAUSE;
    let mut volumes = None;
    loop {
        causes.note();
        let began = Instant::now();
        let outcome = Pass::run(&surroundings, &mut volumes).await;
        tracing::debug!(?outcome, elapsed = ?began.elapsed(), "looked at all blocks");
        pause = if outcome.has_moved { SHORTEST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        let until_next = if outcome.is_unfinished() { pause } else { PERIOD };
        tokio::select! {
            biased;
            () = trigger.notified() => pause = SHORTEST_PAUSE,
            () = sleep(until_next) => {}
            () = causes.wait(&outcome) => {
                pause = SHORTEST_PAUSE;
                // Changes come in flocks.
                sleep(FLOCK).await;
            }
        }
    }
}

/// What makes a pass worthwhile, and what of it the last one knew.
struct Causes {
    view: watch::Receiver<View>,
    health: watch::Receiver<HealthMap>,
    seen: Seen,
}

#[derive(Clone, Default)]
struct Seen {
    ring: u64,
    volume_changes: u64,
    volume_deletions: u64,
    health: HealthMap,
}

impl Causes {
    fn new(surroundings: &Surroundings) -> Self {
        let view = surroundings.view.clone();
        Self { view, health: surroundings.peers.health(), seen: Seen::default() }
    }

    fn note(&mut self) {
        self.seen = self.look();
    }

    fn look(&mut self) -> Seen {
        let health = Arc::clone(&self.health.borrow_and_update());
        let view = self.view.borrow_and_update();
        Seen {
            ring: view.ring.as_ref().map_or(0, |ring| ring.version().0),
            volume_changes: view.volume_changes,
            volume_deletions: view.volume_deletions,
            health,
        }
    }

    /// Waits until another pass may do what the last one could not.
    async fn wait(&mut self, last: &Outcome) {
        loop {
            let now = self.look();
            // Also one that was up before, and was away in between.
            let came_up = |(peer, health): (&PeerId, &Health)| {
                matches!(health, Health::Up { .. }) && self.seen.health.get(peer) != Some(health)
            };
            if now.ring != self.seen.ring
                || now.volume_deletions != self.seen.volume_deletions
                || (last.waits_for_volumes() && now.volume_changes != self.seen.volume_changes)
                || now.health.iter().any(came_up)
            {
                return;
            }
            // A peer that goes down may come up again: that is a change then.
            self.seen.health = now.health;
            tokio::select! {
                biased;
                changed = self.view.changed() => if changed.is_err() { return },
                changed = self.health.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::collections::BTreeMap;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_was_away_during_a_pass_is_a_cause_for_another() {
        let peer = PeerId::decode([1; 16]);
        let (health, receiver) = watch::channel(HealthMap::default());
        let (_view, view) = watch::channel(View::default());
        let mut causes = Causes { view, health: receiver, seen: Seen::default() };
        let set = |found| {
            health.send_replace(Arc::new(BTreeMap::from([(peer, found)])));
        };
        let outcome = Outcome::default();
        set(Health::Up { since: Instant::now() });
        causes.note();
        assert_eq!(causes.wait(&outcome).now_or_never(), None);
        tokio::time::advance(Duration::from_millis(50)).await;
        // Nobody looks before it is up again.
        set(Health::Down);
        set(Health::Up { since: Instant::now() });
        assert_eq!(causes.wait(&outcome).now_or_never(), Some(()));
        causes.note();
        set(Health::Down);
        assert_eq!(causes.wait(&outcome).now_or_never(), None);
    }
}
