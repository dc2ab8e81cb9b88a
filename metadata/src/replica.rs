//! One member's machine, shared by what applies the log, what answers questions and the watches.
//!
//! A watch holds no queue: it reads the history at its own pace, so it neither blocks the log nor
//! loses an event; when it is too slow for the history it is told so.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::MissedTickBehavior;

use crate::machine::Machine;
use crate::{Answer, Error, Event, EventKind, Query, Revision, WatchItem};

/// How often an idle watch says that nothing was missed.
const PROGRESS: Duration = Duration::from_secs(2);
/// Revisions that a watch copies at a time.
const BATCH: usize = 256;

pub(crate) struct Replica {
    machine: RwLock<Machine>,
    /// Told after each change. It wakes in the order of waiting, so that a simulated run goes the
    /// same way twice; tokio's `watch` channel wakes by chance.
    changed: Notify,
}

/// What a watch found at its place.
enum Found {
    /// Up to the given revision.
    Changes(Vec<WatchItem>, Revision),
    Compacted(Revision),
}

impl Replica {
    pub(crate) fn new() -> Self {
        Self { machine: RwLock::default(), changed: Notify::new() }
    }

    /// Runs `change` on the machine, and tells the watches.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machine = self.write();
        let before = machine.state.revision();
        let result = change(&mut machine);
        if machine.state.revision() != before {
            self.changed.notify_waiters();
        }
        result
    }

    pub(crate) fn answer(&self, query: &Query) -> Answer {
        self.read().state.answer(query)
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Machine> {
        // A panic while applying ends the process or its test; the data are then of no use.
        self.machine.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the revision changes after this call.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// The changes after `from`, or without it all there is and the changes after that. Ends with
    /// the error of `cut` when that resolves.
    pub(crate) fn watch(
        self: &Arc<Self>,
        from: Option<Revision>,
        kinds: Vec<EventKind>,
        cut: impl Future<Output = Error> + Send + 'static,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        watch_stream(Arc::clone(self), from, kinds, cut).boxed()
    }

    /// All there is of `kinds`, at one revision.
    fn list(&self, kinds: &[EventKind]) -> (Vec<Answer>, Revision) {
        let machine = self.read();
        let wanted = |kind: &&EventKind| kinds.is_empty() || kinds.contains(kind);
        let answers = EventKind::ALL.iter().filter(wanted);
        let answers = answers.map(|kind| machine.state.answer(&kind.list())).collect();
        (answers, machine.state.revision())
    }

    fn find(&self, from: Revision, kinds: &[EventKind]) -> Found {
        let machine = self.read();
        let Some(changes) = machine.events_after(from, BATCH) else {
            return Found::Compacted(machine.compacted());
        };
        let newest = changes.back().map_or(from, |(revision, _)| *revision);
        let items = changes.into_iter().filter_map(|(revision, mut events)| {
            events.retain(|event| kinds.is_empty() || kinds.contains(&event.kind()));
            (!events.is_empty()).then_some(WatchItem::Events { revision, events })
        });
        Found::Changes(items.collect(), newest)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Machine> {
        self.machine.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn watch_stream(
    replica: Arc<Replica>,
    from: Option<Revision>,
    kinds: Vec<EventKind>,
    cut: impl Future<Output = Error> + Send + 'static,
) -> impl Stream<Item = Result<WatchItem, Error>> + Send {
    async_stream::stream! {
        let mut cut = Box::pin(cut);
        let mut progress = tokio::time::interval(PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut from = match from {
            Some(from) => from,
            None => {
                let (answers, revision) = replica.list(&kinds);
                for answer in answers {
                    yield Ok(WatchItem::Listed(answer));
                }
                revision
            }
        };
        loop {
            // Before the look, so that no change falls between.
            let changed = replica.changed();
            loop {
                match replica.find(from, &kinds) {
                    Found::Compacted(compacted) => {
                        yield Err(Error::Compacted { compacted });
                        return;
                    }
                    Found::Changes(_, newest) if newest == from => break,
                    Found::Changes(items, newest) => {
                        for item in items {
                            yield Ok(item);
                        }
                        from = newest;
                    }
                }
            }
            // In order, so that the same run of a simulation goes the same way; the rarest first.
            let item = tokio::select! {
                biased;
                error = &mut cut => Err(error),
                // All up to `from` was sent, whatever has been applied since.
                _ = progress.tick() => Ok(WatchItem::Progress(from)),
                () = changed => continue,
            };
            let ended = item.is_err();
            yield item;
            if ended {
                return;
            }
        }
    }
}

impl Event {
    /// The kind by which watchers ask for it.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Initialised(_) => EventKind::Cluster,
            Self::PeerChanged(_) | Self::PeerRemoved(_) => EventKind::Peer,
            Self::RingChanged(_) => EventKind::Ring,
            Self::VolumeChanged(_) | Self::VolumeDeleted(_) => EventKind::Volume,
            Self::SessionOpened(_) | Self::SessionEnded(_) => EventKind::Session,
            Self::GroupChanged(_) => EventKind::Member,
        }
    }
}

impl EventKind {
    /// The question for all there is of it.
    fn list(self) -> Query {
        match self {
            Self::Cluster => Query::Cluster,
            Self::Peer => Query::Peers,
            Self::Ring => Query::Ring(None),
            Self::Volume => Query::Volumes,
            Self::Session => Query::Sessions,
            Self::Member => Query::Group,
        }
    }
}
