//! openraft's state machine: applies entries to the application, takes and restores snapshots.
//!
//! The state is in memory. A restart restores the current snapshot and applies the log behind it
//! up to the stored committed entry, which openraft drives through these methods.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::alias::{LogIdOf, SmSnapshotOf, SnapshotMetaOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};

use crate::config::{
    Command, LogId, Payload, Response, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::machine::{SnapshotWriter, StateMachine};
use crate::node::Space;
use crate::snapshot::{Shelf, SnapshotFile, body};
use crate::status;

type Built = SmSnapshotOf<TypeConfig, Machine>;

/// The application with what Raft notes beside it.
pub(crate) struct Machine {
    // openraft calls serially; the lock is for the blocking threads and never contended.
    app: Arc<Mutex<Box<dyn StateMachine>>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    shelf: Arc<Shelf>,
    space: Arc<Space>,
}

impl Machine {
    pub(crate) fn new(app: Box<dyn StateMachine>, shelf: Arc<Shelf>, space: Arc<Space>) -> Self {
        let app = Arc::new(Mutex::new(app));
        Self { app, applied: None, membership: StoredMembership::default(), shelf, space }
    }

    fn apply_command(&self, index: u64, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut app = lock(&self.app);
        // A panic would end openraft's worker while its core goes on; as an error it stops both.
        catch_unwind(AssertUnwindSafe(|| app.apply(index, command)))
            .map_err(|_| io::Error::other(format!("the application panicked at entry {index}")))
    }

    fn pin(&self) -> Builder {
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let pinned = Mutex::new(Some(lock(&self.app).snapshot()));
        Builder { meta, pinned, shelf: self.shelf.clone() }
    }
}

fn lock<T: ?Sized>(app: &Mutex<T>) -> MutexGuard<'_, T> {
    app.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let response = match entry.payload {
                Payload::Blank => Vec::new(),
                Payload::Normal(Command(command)) => {
                    self.apply_command(entry.log_id.index, &command)?
                }
                Payload::Membership(membership) => {
                    status::regroup(lock(&self.app).as_mut(), &membership);
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Vec::new()
                }
            };
            self.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(Response(response));
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        // One that cannot be written would end the node; the next entries bring another chance. It will
        // be about as large as the last one.
        (force || self.space.has_room(self.shelf.size())).then(|| self.pin())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.pin()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let (app, shelf, meta) = (self.app.clone(), self.shelf.clone(), meta.clone());
        let installed = meta.clone();
        // First the state, then the file: openraft counts on neither before this returns, and an
        // error in between stops the node, which comes back with the old file.
        let install = move || -> io::Result<()> {
            lock(&app).restore(&mut body(&snapshot.file).map_err(io::Error::other)?)?;
            shelf.adopt(&meta, snapshot)
        };
        self.shelf.blocking().run(install).await.map_err(io::Error::other)??;
        self.applied = installed.last_log_id;
        self.membership = installed.last_membership;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Built>> {
        let current = self.shelf.open_current()?;
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// A pinned state on its way into a file.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    // In a mutex only because openraft wants it `Sync`.
    pinned: Mutex<Option<SnapshotWriter>>,
    shelf: Arc<Shelf>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Built> {
        let pinned = lock(&self.pinned).take();
        let body = pinned.ok_or_else(|| io::Error::other("the snapshot is already built"))?;
        let (shelf, meta) = (self.shelf.clone(), self.meta.clone());
        let build = move || -> io::Result<Built> {
            shelf.write(&meta, body)?;
            let (meta, snapshot) = shelf
                .open_current()?
                .ok_or_else(|| io::Error::other("the snapshot is not there"))?;
            Ok(Snapshot { meta, snapshot })
        };
        self.shelf.blocking().run(build).await.map_err(io::Error::other)?
    }
}
