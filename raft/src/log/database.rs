//! What a log's records mean: the format, the identity, and the entries as this crate encodes them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use prost::Message;

use crate::error::{Cause, DecodeError, Error};
use crate::options::Identity;
use crate::storage::{Change, Records, Storage};
use crate::wire::{self, proto};

const FORMAT: &str = "format";
const IDENTITY: &str = "identity";
pub(super) const VOTE: &str = "vote";
pub(super) const PURGED: &str = "purged";
pub(super) const COMMITTED: &str = "committed";

const FORMAT_VERSION: u32 = 1;

/// How a node came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Founding {
    /// It began the group, so it may initialize an empty log.
    Bootstrap,
    /// It joined a group and waits for the leader to write its log.
    Join,
}

/// An open log. It can be closed while others hold it, so that a node that was shut down leaves the
/// folder free although openraft's tasks end later.
pub(crate) struct Database {
    dir: PathBuf,
    records: RwLock<Option<Box<dyn Records>>>,
}

impl Database {
    /// Opens the log in `dir`, making it if it is missing.
    pub(crate) fn open(storage: &dyn Storage, dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir)
            .map_err(|source| Error::Io { path: dir.to_owned(), source })?;
        let records = storage.open(dir).map_err(|source| unusable(dir, source))?;
        let this = Self { dir: dir.to_owned(), records: RwLock::new(Some(records)) };
        this.check_format()?;
        Ok(this)
    }

    /// The identity in `dir`, without the lock that a running node holds. `None` if there is no
    /// log or none with an identity.
    pub(crate) fn peek_identity(
        storage: &dyn Storage,
        dir: &Path,
    ) -> Result<Option<Identity>, Error> {
        let records = storage.peek(dir).map_err(|source| unusable(dir, source))?;
        let Some(records) = records else { return Ok(None) };
        let this = Self { dir: dir.to_owned(), records: RwLock::new(Some(records)) };
        this.check_format_of_reader()?;
        Ok(this.identity()?.map(|(identity, _)| identity))
    }

    /// Whether nothing but the format was ever written.
    pub(crate) fn is_pristine(&self) -> Result<bool, Error> {
        self.with(|open| {
            Ok(open.last_entry()?.is_none() && open.names()?.iter().all(|name| name == FORMAT))
        })
        .map_err(|source| self.unreadable(source))
    }

    pub(crate) fn identity(&self) -> Result<Option<(Identity, Founding)>, Error> {
        self.with(|open| {
            let Some(bytes) = open.value(IDENTITY)? else { return Ok(None) };
            let stored: proto::Identity = wire::decode(bytes.as_slice())?;
            let invalid = |field| io::Error::from(DecodeError::Invalid { field });
            let cluster = stored.cluster.as_ref().try_into().map_err(|_| invalid("cluster"))?;
            let group = match stored.group.is_empty() {
                true => cluster,
                false => stored.group.as_ref().try_into().map_err(|_| invalid("group"))?,
            };
            let founding = if stored.founder { Founding::Bootstrap } else { Founding::Join };
            Ok(Some((Identity { cluster, group, node: stored.node }, founding)))
        })
        .map_err(|source| self.unreadable(source))
    }

    /// Stores the identity; durable on return.
    pub(crate) fn set_identity(&self, identity: Identity, by: Founding) -> Result<(), Error> {
        let stored = proto::Identity {
            cluster: identity.cluster.to_vec().into(),
            node: identity.node,
            founder: by == Founding::Bootstrap,
            group: identity.group.to_vec().into(),
        };
        self.put_synced(IDENTITY, &stored.encode_to_vec())
    }

    /// Runs `use_it` on the open log; an error once it is closed.
    pub(super) fn with<T>(
        &self,
        use_it: impl FnOnce(&dyn Records) -> io::Result<T>,
    ) -> io::Result<T> {
        let guard = self.records.read().unwrap_or_else(PoisonError::into_inner);
        use_it(guard.as_deref().ok_or_else(|| io::Error::other("the log is closed"))?)
    }

    /// Closes the files and releases the folder, after the reads that are under way.
    pub(crate) fn close(&self) {
        drop(self.records.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn check_format(&self) -> Result<(), Error> {
        match self.format()? {
            Some(found) => self.known_format(found),
            None => self.put_synced(FORMAT, &FORMAT_VERSION.to_le_bytes()),
        }
    }

    fn check_format_of_reader(&self) -> Result<(), Error> {
        self.format()?.map_or(Ok(()), |found| self.known_format(found))
    }

    fn known_format(&self, found: u32) -> Result<(), Error> {
        if found == FORMAT_VERSION {
            return Ok(());
        }
        Err(Error::Format { dir: self.dir.clone(), found, known: FORMAT_VERSION })
    }

    fn format(&self) -> Result<Option<u32>, Error> {
        self.with(|open| {
            let Some(bytes) = open.value(FORMAT)? else { return Ok(None) };
            let bytes = bytes
                .as_slice()
                .try_into()
                .map_err(|_| io::Error::from(DecodeError::Invalid { field: "format" }))?;
            Ok(Some(u32::from_le_bytes(bytes)))
        })
        .map_err(|source| self.unreadable(source))
    }

    fn put_synced(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        self.with(|open| open.write(&[Change::PutValue { name, value }], true))
            .map_err(|source| self.unreadable(source))
    }

    pub(super) fn unreadable(&self, source: io::Error) -> Error {
        unusable(&self.dir, source.into())
    }
}

fn unusable(dir: &Path, source: Cause) -> Error {
    Error::Log { dir: dir.to_owned(), source }
}
