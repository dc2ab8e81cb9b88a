//! Groups that go on with an old state: what a folder holds is read out, and a new group of one is
//! founded on it.
//!
//! For a state that was kept elsewhere, and for a group that has lost its majority for good. Both
//! work on folders on which nothing runs.
//!
//! The new group has another name, so its members and those of the old one refuse each other. Its
//! log begins behind the old one's, with a snapshot: indices and terms go on growing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::StreamExt;
use openraft::BasicNode;
use openraft::storage::{RaftLogReader, RaftLogStorage};

use super::{RaftNode, blocking, log_dir, no_gap, snapshot_dir, stores};
use crate::config::{
    Command, Entry, LeaderId, LogId, Membership, Payload, SnapshotMeta, StoredMembership, Vote,
};
use crate::error::{Cause, Error};
use crate::log::{Database, Founding, LogStore};
use crate::machine::{SnapshotWriter, StateMachine};
use crate::options::{Identity, Options};
use crate::snapshot::{Shelf, body};
use crate::status;
use crate::storage::Blocking;

/// A place in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub term: u64,
    pub index: u64,
}

/// What a folder held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    pub identity: Identity,
    /// The last entry, which the state contains.
    pub last: Position,
    /// Entries at the end of the log of which this node did not know whether they were committed.
    /// The state contains them: leaving a committed one out would lose it, and of one that was not
    /// committed nobody was told anything.
    pub unconfirmed: u64,
    /// The members of the group with their addresses, by the last membership in the log.
    pub members: Vec<(u64, String)>,
}

impl RaftNode {
    /// Whether the folder of `options` is missing or holds nothing of any group.
    pub fn is_pristine(options: &Options) -> Result<bool, Error> {
        let dir = &options.dir;
        if !Shelf::is_pristine(&snapshot_dir(dir)) {
            return Ok(false);
        }
        if !log_dir(dir).exists() {
            return Ok(true);
        }
        let database = Database::open(&*options.storage, &log_dir(dir))?;
        Ok(database.identity()?.is_none() && database.is_pristine()?)
    }

    /// Brings `app` to the state that the folder of `options` holds, on which no node may run: its snapshot, and
    /// all entries of the log behind it. An error says what of it cannot be read; then `app` is of
    /// no use.
    pub async fn salvage(options: &Options, app: impl StateMachine) -> Result<Remains, Error> {
        let dir = options.dir.clone();
        if !log_dir(&dir).exists() {
            return Err(Error::NotInitialized { dir });
        }
        let how = Blocking::of(&*options.storage);
        let open = {
            let (dir, storage) = (dir.clone(), options.storage.clone());
            move || {
                let database = Arc::new(Database::open(&*storage, &log_dir(&dir))?);
                let Some((identity, _)) = database.identity()? else {
                    return Err(Error::NotInitialized { dir });
                };
                let shelf = Shelf::open(&snapshot_dir(&dir), identity.group, how)?;
                let log = LogStore::open(database, storage.pace())?;
                no_gap(&log, &shelf)?;
                Ok((identity, shelf, log))
            }
        };
        let (identity, shelf, log) = blocking(how, open).await?;
        let mut reading = Reading { app, applied: None, membership: StoredMembership::default() };
        let read = reading.run(&shelf, log.clone()).await;
        let committed = log.clone().read_committed().await;
        let close = blocking(how, move || {
            log.close();
            Ok(())
        });
        close.await?;
        let unreadable = |source| Error::Unreadable { dir: dir.clone(), source };
        read.map_err(unreadable)?;
        let committed = committed.map_err(|err| unreadable(err.into()))?;
        let Some(last) = reading.applied else { return Err(Error::Empty { dir }) };
        let known = committed.max(shelf.last()).map_or(0, |id| id.index);
        Ok(Remains {
            identity,
            last: Position { term: last.leader_id.term, index: last.index },
            unconfirmed: last.index.saturating_sub(known),
            members: reading
                .membership
                .membership()
                .nodes()
                .map(|(node, at)| (*node, at.addr.clone()))
                .collect(),
        })
    }

    /// Makes the pristine folder of `options` that of a member which is alone in its group and has
    /// a state already; [`open`](Self::open) starts it. Its log goes on behind the position
    /// `behind`.
    ///
    /// All of it is durable on return. If it is interrupted, the folder is of no use.
    pub async fn found(
        options: &Options,
        identity: Identity,
        behind: Position,
        state: SnapshotWriter,
    ) -> Result<(), Error> {
        if identity.node == 0 {
            return Err(Error::ZeroNode);
        }
        let stores = stores(options).await?;
        if let Some((found, _)) = stores.found {
            return Err(Error::NotPristine { dir: options.dir.clone(), found });
        }
        let leader_id = LeaderId { term: behind.term + 1, node_id: identity.node };
        let first = LogId::new(leader_id, behind.index + 1);
        let node = BasicNode { addr: options.address.clone() };
        let members = Membership::new(
            vec![[identity.node].into()],
            std::collections::BTreeMap::from([(identity.node, node)]),
        )
        .map_err(|err| Error::Start { source: err.into() })?;
        let meta = SnapshotMeta {
            last_log_id: Some(first),
            last_membership: StoredMembership::new(Some(first), members),
        };
        let dir = options.dir.clone();
        let (how, pace) = (Blocking::of(&*options.storage), options.storage.pace());
        let write = move || {
            let shelf = Shelf::open(&snapshot_dir(&dir), identity.group, how)?;
            shelf.write(&meta, state).map_err(|source| Error::Io { path: dir, source })?;
            stores.database.set_identity(identity, Founding::Join)?;
            LogStore::open(stores.database, pace)
        };
        let mut log = blocking(how, write).await?;
        // The vote comes last: it is synced, and with it all before it.
        let purged = log.purge(first).await;
        let voted = log.save_vote(&Vote::new(leader_id.term, identity.node)).await;
        let closed = blocking(how, move || {
            log.close();
            Ok(())
        });
        closed.await?;
        let failed = |source| Error::Io { path: options.dir.clone(), source };
        purged.map_err(failed)?;
        voted.map_err(failed)
    }
}

/// A state machine on its way to the last entry.
struct Reading<A> {
    app: A,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl<A: StateMachine> Reading<A> {
    async fn run(&mut self, shelf: &Shelf, mut log: LogStore) -> Result<(), Cause> {
        if let Some((meta, snapshot)) = shelf.open_current()? {
            self.app.restore(&mut body(&snapshot.file)?)?;
            self.applied = meta.last_log_id;
            self.membership = meta.last_membership;
        }
        let next = self.applied.map_or(0, |id| id.index + 1);
        let end = log.get_log_state().await?.last_log_id.map_or(0, |id| id.index + 1);
        let mut entries = std::pin::pin!(log.entries_stream(next..end).await);
        while let Some(entry) = entries.next().await {
            self.take(entry?)?;
        }
        Ok(())
    }

    fn take(&mut self, entry: Entry) -> Result<(), Cause> {
        let index = entry.log_id.index;
        match entry.payload {
            Payload::Blank => {}
            Payload::Normal(Command(command)) => {
                let apply = AssertUnwindSafe(|| self.app.apply(index, &command));
                catch_unwind(apply).map_err(|_| format!("entry {index} cannot be applied"))?;
            }
            Payload::Membership(membership) => {
                // It counts in the state as it did when the group applied it.
                status::regroup(&mut self.app, &membership);
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        self.applied = Some(entry.log_id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
