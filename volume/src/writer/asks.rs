//! What others ask of the writer through the metadata service, and snapshots.

use std::collections::BTreeSet;

use torus_metadata::{Ask, AskId, Command, Refusal, SnapshotId, Task};

use super::{Event, Reply, Writer};
use crate::Error;
use crate::follow::Seen;
use crate::log::Identity;

/// A snapshot that is wanted.
pub(super) struct Wanted {
    name: String,
    created_ms: u64,
    from: Asker<SnapshotId>,
    /// Whether it belongs to a group: then no write is taken before it is fixed.
    is_of_group: bool,
}

impl Wanted {
    /// Tells the holder of a handle that the volume failed; others learn it from the lock.
    pub(super) fn fail(self, error: &Error) {
        if let Asker::Handle(reply) = self.from {
            // Whoever asked may have gone away; so too below.
            let _ = reply.send(Err(error.clone()));
        }
    }
}

/// Who asks, and is to be told.
pub(super) enum Asker<T> {
    /// The holder of a handle, who wants to know what came of it.
    Handle(Reply<T>),
    /// Somebody who waits for the answer in the metadata.
    Metadata(AskId),
}

/// What was asked and is not answered yet.
#[derive(Default)]
pub(super) struct Asks {
    /// Those of the metadata that were begun.
    known: BTreeSet<AskId>,
    /// Snapshots to be taken of the next checkpoint.
    wanted: Vec<Wanted>,
    /// The group for whose snapshots the volume stands still, with its own.
    still: Option<(AskId, Wanted)>,
    /// Whom to tell that the volume needs its parent no more.
    flatten: Vec<Reply<()>>,
    flatten_asks: Vec<AskId>,
    is_flattening: bool,
    is_committing_flat: bool,
    /// What stands in the parent's INodes was wanted anew since the last checkpoint.
    is_renewing: bool,
}

impl Asks {
    pub(super) fn has_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    pub(super) fn take_wanted(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.wanted)
    }

    /// Whether writes wait, so that the snapshots of a group show one moment.
    pub(super) fn stands_still(&self) -> bool {
        self.still.is_some() || self.wanted.iter().any(|wanted| wanted.is_of_group)
    }

    pub(super) fn is_flattening(&self) -> bool {
        self.is_flattening
    }

    /// Tells those who hold a handle that the volume failed; the others learn it from the lock.
    pub(super) fn fail(&mut self, error: &Error) {
        let still = self.still.take().map(|(_, wanted)| wanted);
        for wanted in self.wanted.drain(..).chain(still) {
            wanted.fail(error);
        }
        for reply in self.flatten.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

/// What commits these snapshots, once the head is the checkpoint that they are taken of; `size` was
/// the volume's when it was cut.
pub(super) fn commands(snapshots: &[Wanted], identity: &Identity, size: u64) -> Vec<Command> {
    let commit = |wanted: &Wanted| Command::CommitSnapshot {
        volume: identity.volume,
        epoch: identity.epoch,
        name: wanted.name.clone(),
        size,
        created_ms: wanted.created_ms,
        ask: match wanted.from {
            Asker::Metadata(ask) => Some(ask),
            Asker::Handle(_) => None,
        },
    };
    snapshots.iter().map(commit).collect()
}

impl Writer {
    /// The metadata of this volume changed, by this writer or by others.
    pub(super) fn metadata_changed(&mut self, (revision, volume): Seen) {
        // Anyone may make it larger; but what was said before it was made smaller here is past.
        let is_news = self.resized_at < revision;
        if is_news && self.resize.is_none() && volume.size > self.size.get() {
            tracing::info!(volume = %self.identity.volume, size = volume.size, "the volume grew");
            self.size.set(volume.size);
        }
        let open: BTreeSet<AskId> = volume.asks.iter().map(|ask| ask.id).collect();
        self.asks.known.retain(|ask| open.contains(ask));
        self.reclaimer.metadata_changed(&volume);
        for ask in volume.asks {
            if self.failed.is_none() && self.asks.known.insert(ask.id) {
                self.begin(ask);
            }
        }
    }

    fn begin(&mut self, ask: Ask) {
        tracing::info!(volume = %self.identity.volume, task = ?ask.task, "asked");
        match ask.task {
            Task::Snapshot { name, created_ms } => {
                let (from, is_of_group) = (Asker::Metadata(ask.id), ask.group.len() > 1);
                let wanted = Wanted { name, created_ms, from, is_of_group };
                if !is_of_group {
                    self.want_snapshot(wanted);
                } else if self.asks.still.is_some() {
                    self.refuse_ask(ask.id, &Error::Busy);
                } else {
                    self.asks.still = Some((ask.id, wanted));
                    let members = ask.group.into_iter().collect();
                    let entered = self.groups.enter(ask.id, self.identity.volume, members);
                    self.push_event(async move {
                        Event::Gathered { ask: ask.id, result: entered.await }
                    });
                }
            }
            Task::Resize { size, discard } => {
                self.begin_resize(size, discard, Asker::Metadata(ask.id));
            }
            Task::Flatten => {
                self.asks.flatten_asks.push(ask.id);
                self.begin_flatten();
            }
        }
    }

    /// A snapshot for the holder of a handle.
    pub(super) fn snapshot(&mut self, name: String, created_ms: u64, reply: Reply<SnapshotId>) {
        match &self.failed {
            Some(error) => {
                let _ = reply.send(Err(error.clone()));
            }
            None => {
                let from = Asker::Handle(reply);
                self.want_snapshot(Wanted { name, created_ms, from, is_of_group: false });
            }
        }
    }

    /// It will hold all that was accepted so far.
    fn want_snapshot(&mut self, wanted: Wanted) {
        self.want_all();
        self.asks.wanted.push(wanted);
    }

    /// All volumes of the group stand still; or they never will.
    pub(super) fn gathered(&mut self, ask: AskId, result: Result<(), Error>) {
        let Some((_, wanted)) = self.asks.still.take_if(|(still, _)| *still == ask) else { return };
        match result {
            // Writes wait on until the checkpoint has been cut.
            Ok(()) => self.want_snapshot(wanted),
            Err(error) => self.refuse_ask(ask, &error),
        }
    }

    pub(super) fn snapshot_taken(&mut self, wanted: Wanted, result: Result<SnapshotId, Error>) {
        match (wanted.from, result) {
            (Asker::Handle(reply), result) => {
                let _ = reply.send(result);
            }
            // Committing it has answered the ask.
            (Asker::Metadata(_), Ok(_)) => {}
            (Asker::Metadata(ask), Err(error)) => self.refuse_ask(ask, &error),
        }
    }

    pub(super) fn refuse_ask(&self, ask: AskId, error: &Error) {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(deeper) = cause {
            text = format!("{text}: {deeper}");
            cause = deeper.source();
        }
        tracing::warn!(volume = %self.identity.volume, error = text, "what was asked is refused");
        let (volume, epoch) = (self.identity.volume, self.identity.epoch);
        let command = Command::RefuseAsk { volume, epoch, ask, error: text };
        let context = self.context.clone();
        self.push_event(async move {
            // Withdrawn meanwhile, or the lock is gone: nobody waits for it.
            let _ = context.tell(command).await;
            Event::Told
        });
    }

    /// Copies what is still in the parent's blocks; `reply` hears when it is done.
    pub(super) fn flatten(&mut self, reply: Reply<()>) {
        match &self.failed {
            Some(error) => {
                let _ = reply.send(Err(error.clone()));
            }
            None => {
                self.asks.flatten.push(reply);
                self.begin_flatten();
            }
        }
    }

    fn begin_flatten(&mut self) {
        self.asks.is_flattening = true;
        self.collector.map_changed();
    }

    /// Commits that the parent is needed no more, once the head's checkpoint says so.
    pub(super) fn keep_flattening(&mut self) {
        let is_due = self.asks.is_flattening && !self.asks.is_committing_flat;
        let totals = self.map.table.totals();
        if !is_due || self.checkpoint.is_some() || totals.foreign_pages > 0 {
            return;
        }
        let foreign = self.map.index().foreign_inodes(self.identity.volume);
        let is_own = self.head.volume == self.identity.volume;
        if totals.foreign_blocks == 0 && foreign.is_empty() && is_own && !self.uncovered {
            self.asks.is_committing_flat = true;
            let (volume, epoch) = (self.identity.volume, self.identity.epoch);
            let asks = std::mem::take(&mut self.asks.flatten_asks).into_iter().map(Some);
            let context = self.context.clone();
            self.push_event(async move {
                for ask in asks.chain([None]) {
                    let command = Command::CommitFlattened { volume, epoch, ask };
                    match context.tell(command).await {
                        // Whoever asked has gone away meanwhile.
                        Ok(()) | Err(Error::Refused(Refusal::NoSuchAsk)) => {}
                        Err(error) => return Event::Flattened(Err(error)),
                    }
                }
                Event::Flattened(Ok(()))
            });
        } else if !self.asks.is_renewing && self.map.want_nodes() {
            self.asks.is_renewing = true;
            self.map.want_anew(&foreign);
            // A clone of nothing has nothing to store anew, and yet needs a checkpoint of its own.
            self.uncovered = true;
            self.checkpoint_due = true;
        }
    }

    /// The head has moved: what is left of the parent is to be looked at anew.
    pub(super) fn note_checkpoint(&mut self) {
        self.asks.is_renewing = false;
    }

    pub(super) fn flattened(&mut self, result: Result<(), Error>) {
        self.asks.is_committing_flat = false;
        self.asks.is_flattening = !self.asks.flatten_asks.is_empty();
        for reply in self.asks.flatten.drain(..) {
            let _ = reply.send(result.clone());
        }
    }
}
