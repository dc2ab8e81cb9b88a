//! Opens RocksDB so that a crash loses nothing that was synced, and hands out its two families.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use prost::Message;
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode};
use rocksdb::{IteratorMode, WriteOptions};

use crate::error::{Cause, Error};
use crate::options::Identity;
use crate::wire::{self, proto};

const LOG: &str = "raft_log";
const META: &str = "raft_meta";
const FORMAT: &[u8] = b"format";
const IDENTITY: &[u8] = b"identity";
pub(super) const VOTE: &[u8] = b"vote";
pub(super) const PURGED: &[u8] = b"purged";
pub(super) const COMMITTED: &[u8] = b"committed";

const FORMAT_VERSION: u32 = 1;

/// How a node came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Founding {
    /// It began the group, so it may initialize an empty log.
    Bootstrap,
    /// It joined a group and waits for the leader to write its log.
    Join,
}

/// An open RocksDB. It can be closed while others hold it, so that a node that was shut down
/// leaves the folder free although openraft's tasks end later.
pub(crate) struct Database {
    dir: PathBuf,
    db: RwLock<Option<DB>>,
}

impl Database {
    /// Opens the log in `dir`, making it if it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir)
            .map_err(|source| Error::Io { path: dir.to_owned(), source })?;
        let families = [
            ColumnFamilyDescriptor::new("default", family()),
            ColumnFamilyDescriptor::new(LOG, family()),
            ColumnFamilyDescriptor::new(META, family()),
        ];
        let db = DB::open_cf_descriptors(&options(), dir, families)
            .map_err(|source| unusable(dir, source.into()))?;
        let this = Self { dir: dir.to_owned(), db: RwLock::new(Some(db)) };
        this.check_format()?;
        Ok(this)
    }

    /// The identity in `dir`, without the lock that a running node holds. `None` if there is no
    /// log or none with an identity.
    pub(crate) fn peek_identity(dir: &Path) -> Result<Option<Identity>, Error> {
        if !dir.join("CURRENT").exists() {
            return Ok(None);
        }
        let families = DB::list_cf(&rocksdb::Options::default(), dir)
            .map_err(|source| unusable(dir, source.into()))?;
        if !families.iter().any(|family| family == META) {
            return Ok(None);
        }
        let mut options = rocksdb::Options::default();
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        let db = DB::open_cf_for_read_only(&options, dir, families, false)
            .map_err(|source| unusable(dir, source.into()))?;
        let this = Self { dir: dir.to_owned(), db: RwLock::new(Some(db)) };
        this.check_format_of_reader()?;
        Ok(this.identity()?.map(|(identity, _)| identity))
    }

    /// Whether nothing but the format was ever written.
    pub(crate) fn is_pristine(&self) -> Result<bool, Error> {
        self.with(|open| {
            let log = open.log_first(0)?.is_none();
            let meta = open.db.iterator_cf(open.meta, IteratorMode::Start);
            for item in meta {
                let (key, _) = item.map_err(io::Error::other)?;
                if key.as_ref() != FORMAT {
                    return Ok(false);
                }
            }
            Ok(log)
        })
        .map_err(|source| self.unreadable(source))
    }

    pub(crate) fn identity(&self) -> Result<Option<(Identity, Founding)>, Error> {
        self.with(|open| {
            let Some(bytes) = open.meta(IDENTITY)? else { return Ok(None) };
            let stored: proto::Identity = wire::decode(bytes.as_slice())?;
            let cluster = stored.cluster.as_ref().try_into().map_err(|_| {
                io::Error::from(crate::error::DecodeError::Invalid { field: "cluster" })
            })?;
            let group = match stored.group.is_empty() {
                true => cluster,
                false => stored.group.as_ref().try_into().map_err(|_| {
                    io::Error::from(crate::error::DecodeError::Invalid { field: "group" })
                })?,
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

    /// Runs `read` on the open database; an error once it is closed.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Open<'_>) -> io::Result<T>) -> io::Result<T> {
        let guard = self.guard();
        let db = guard.as_ref().ok_or_else(|| io::Error::other("the log is closed"))?;
        read(&Open { db, log: handle(db, LOG)?, meta: handle(db, META)? })
    }

    /// Closes the files and releases the folder, after the reads that are under way.
    pub(crate) fn close(&self) {
        drop(self.db.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn guard(&self) -> RwLockReadGuard<'_, Option<DB>> {
        self.db.read().unwrap_or_else(PoisonError::into_inner)
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
            let Some(bytes) = open.meta(FORMAT)? else { return Ok(None) };
            let bytes = bytes.as_slice().try_into().map_err(|_| {
                io::Error::from(crate::error::DecodeError::Invalid { field: "format" })
            })?;
            Ok(Some(u32::from_le_bytes(bytes)))
        })
        .map_err(|source| self.unreadable(source))
    }

    fn put_synced(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.with(|open| {
            open.db.put_cf_opt(open.meta, key, value, &synced(true)).map_err(io::Error::other)
        })
        .map_err(|source| self.unreadable(source))
    }

    pub(super) fn unreadable(&self, source: io::Error) -> Error {
        unusable(&self.dir, source.into())
    }
}

/// The database and its families, for the time of one call.
pub(super) struct Open<'a> {
    pub(super) db: &'a DB,
    pub(super) log: &'a ColumnFamily,
    pub(super) meta: &'a ColumnFamily,
}

impl Open<'_> {
    pub(super) fn meta(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(self.meta, key).map_err(io::Error::other)
    }

    /// The first entry at or behind `index`.
    pub(super) fn log_first(&self, index: u64) -> io::Result<Option<(u64, proto::Entry)>> {
        self.log_one(IteratorMode::From(&index.to_be_bytes(), rocksdb::Direction::Forward))
    }

    pub(super) fn log_last(&self) -> io::Result<Option<(u64, proto::Entry)>> {
        self.log_one(IteratorMode::End)
    }

    fn log_one(&self, mode: IteratorMode<'_>) -> io::Result<Option<(u64, proto::Entry)>> {
        match self.db.iterator_cf(self.log, mode).next() {
            None => Ok(None),
            Some(item) => {
                let (key, value) = item.map_err(io::Error::other)?;
                Ok(Some((index_of(&key)?, wire::decode(value.as_ref())?)))
            }
        }
    }
}

/// The index that a key of the log family names.
pub(super) fn index_of(key: &[u8]) -> io::Result<u64> {
    let key = key
        .try_into()
        .map_err(|_| io::Error::from(crate::error::DecodeError::Invalid { field: "log key" }))?;
    Ok(u64::from_be_bytes(key))
}

pub(super) fn synced(sync: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    options
}

fn handle<'a>(db: &'a DB, name: &str) -> io::Result<&'a ColumnFamily> {
    db.cf_handle(name).ok_or_else(|| io::Error::other(format!("no column family {name}")))
}

fn unusable(dir: &Path, source: Cause) -> Error {
    Error::Log { dir: dir.to_owned(), source }
}

fn options() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // The default mode drops all that follows a damaged record, synced entries too. This one
    // accepts a torn end, as a crash leaves it, and refuses anything else.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // A recycled file would hold old records behind the end, which that mode cannot tell apart.
    options.set_recycle_log_file_num(0);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    // The meta family is written rarely; without a limit its memtable would pin old files.
    options.set_max_total_wal_size(128 << 20);
    options.set_keep_log_file_num(4);
    options
}

fn family() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.set_write_buffer_size(32 << 20);
    options.set_max_write_buffer_number(3);
    // Entries live briefly, and a write must not wait for a compaction.
    options.set_compression_type(DBCompressionType::None);
    options.set_level_zero_slowdown_writes_trigger(64);
    options.set_level_zero_stop_writes_trigger(256);
    options
}
