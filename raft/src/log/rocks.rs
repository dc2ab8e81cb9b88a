//! The log in RocksDB, opened so that a crash loses nothing that was synced.
//!
//! Two column families: `raft_log` with entries under their indexes, u64 big-endian, and `raft_meta`
//! with the values under their names.

use std::io;
use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB};
use rocksdb::{
    DBCompressionType, DBRecoveryMode, Direction, IteratorMode, WriteBatch, WriteOptions,
};

use crate::error::{Cause, DecodeError};
use crate::storage::{Change, Entries, Records, Storage};

const LOG: &str = "raft_log";
const META: &str = "raft_meta";
/// Bytes of entries that were read lately.
const CACHE_SIZE: usize = 1 << 20;

/// The storage of production.
#[derive(Clone, Copy, Debug, Default)]
pub struct RocksStorage;

impl Storage for RocksStorage {
    fn open(&self, dir: &Path) -> Result<Box<dyn Records>, Cause> {
        // Few reads come here: new entries are in memory, and old ones are read once.
        let cache = Cache::new_lru_cache(CACHE_SIZE);
        let families =
            ["default", LOG, META].map(|name| ColumnFamilyDescriptor::new(name, family(&cache)));
        Ok(Box::new(Rocks(DB::open_cf_descriptors(&options(), dir, families)?)))
    }

    fn peek(&self, dir: &Path) -> Result<Option<Box<dyn Records>>, Cause> {
        if !dir.join("CURRENT").exists() {
            return Ok(None);
        }
        let families = DB::list_cf(&rocksdb::Options::default(), dir)?;
        if !families.iter().any(|family| family == META) {
            return Ok(None);
        }
        let mut options = rocksdb::Options::default();
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        let db = DB::open_cf_for_read_only(&options, dir, families, false)?;
        Ok(Some(Box::new(Rocks(db))))
    }

    fn exists(&self, dir: &Path) -> bool {
        dir.exists()
    }
}

struct Rocks(DB);

impl Rocks {
    fn log(&self) -> io::Result<&ColumnFamily> {
        self.family(LOG)
    }

    fn meta(&self) -> io::Result<&ColumnFamily> {
        self.family(META)
    }

    fn family(&self, name: &str) -> io::Result<&ColumnFamily> {
        self.0.cf_handle(name).ok_or_else(|| io::Error::other(format!("no column family {name}")))
    }
}

impl Records for Rocks {
    fn value(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.0.get_cf(self.meta()?, name).map_err(io::Error::other)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let items = self.0.iterator_cf(self.meta()?, IteratorMode::Start);
        items
            .map(|item| {
                let (key, _) = item.map_err(io::Error::other)?;
                Ok(String::from_utf8_lossy(&key).into_owned())
            })
            .collect()
    }

    fn entries(&self, from: u64) -> io::Result<Entries<'_>> {
        let mode = IteratorMode::From(&from.to_be_bytes(), Direction::Forward);
        Ok(Box::new(self.0.iterator_cf(self.log()?, mode).map(entry)))
    }

    fn last_entry(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        self.0.iterator_cf(self.log()?, IteratorMode::End).next().map(entry).transpose()
    }

    fn write(&self, changes: &[Change<'_>], sync: bool) -> io::Result<()> {
        let (log, meta) = (self.log()?, self.meta()?);
        let mut batch = WriteBatch::default();
        for change in changes {
            match *change {
                Change::PutEntry { index, value } => batch.put_cf(log, index.to_be_bytes(), value),
                Change::RemoveEntries { from, last } => {
                    batch.delete_range_cf(log, from.to_be_bytes(), after(last));
                }
                Change::PutValue { name, value } => batch.put_cf(meta, name, value),
                Change::RemoveValue { name } => batch.delete_cf(meta, name),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.0.write_opt(batch, &options).map_err(io::Error::other)
    }
}

type Item = Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>;

fn entry(item: Item) -> io::Result<(u64, Vec<u8>)> {
    let (key, value) = item.map_err(io::Error::other)?;
    let key = key
        .as_ref()
        .try_into()
        .map_err(|_| io::Error::from(DecodeError::Invalid { field: "log key" }))?;
    Ok((u64::from_be_bytes(key), value.into_vec()))
}

/// The key behind that of `index`. No log comes near the end of the range.
fn after(index: u64) -> [u8; 8] {
    index.saturating_add(1).to_be_bytes()
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

fn family(cache: &Cache) -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    options.set_block_based_table_factory(&table);
    // Resident for as long as it is not full. An empty one takes memory too, so not much smaller.
    options.set_write_buffer_size(8 << 20);
    options.set_max_write_buffer_number(3);
    // Entries live briefly, and a write must not wait for a compaction.
    options.set_compression_type(DBCompressionType::None);
    options.set_level_zero_slowdown_writes_trigger(64);
    options.set_level_zero_stop_writes_trigger(256);
    options
}
