//! openraft's storage suite on the real log, and what it leaves out: reopening, long reads.

mod crash;

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use openraft::StorageError;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

use super::{Database, Founding, LogStore, RocksStorage};
use crate::apply::Machine;
use crate::config::{Command, Entry, LeaderId, LogId, Payload, TypeConfig, Vote};
use crate::error::Error;
use crate::machine::{SnapshotWriter, StateMachine};
use crate::node::Space;
use crate::options::Identity;
use crate::snapshot::Shelf;
use crate::storage::{Blocking, Change};

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: u64, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn snapshot(&self) -> SnapshotWriter {
        Box::new(|_| Ok(()))
    }

    fn restore(&mut self, _: &mut dyn io::Read) -> io::Result<()> {
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let log = open(&dir.path().join("log")).unwrap();
        let shelf = Shelf::open(&dir.path().join("snapshot"), [7; 16], Blocking::Threads).unwrap();
        Ok((dir, log, Machine::new(Box::new(Nothing), Arc::new(shelf), Space::of(".".into()))))
    }
}

fn open(dir: &Path) -> Result<LogStore, Error> {
    LogStore::open(Arc::new(Database::open(&RocksStorage, dir)?), None)
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

fn entry(term: u64, index: u64, size: usize) -> Entry {
    let payload = Payload::Normal(Command(vec![1; size].into()));
    Entry { log_id: id(term, index), payload }
}

async fn indices(log: &mut LogStore) -> Vec<u64> {
    log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id.index).collect()
}

#[test]
fn openraft_suite() {
    TypeConfig::run(async { Suite::test_all(Builder).await.unwrap() });
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let dir = TempDir::new().unwrap();
    let mut log = open(dir.path()).unwrap();
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    log.blocking_append((0..10).map(|index| entry(1, index, 3))).await.unwrap();
    log.save_committed(Some(id(1, 4))).await.unwrap();
    log.truncate_after(Some(id(1, 7))).await.unwrap();
    log.blocking_append([entry(2, 8, 3)]).await.unwrap();
    log.purge(id(1, 2)).await.unwrap();
    log.close();

    let mut log = open(dir.path()).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 1)));
    assert_eq!(log.read_committed().await.unwrap(), Some(id(1, 4)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(id(1, 2)));
    assert_eq!(state.last_log_id, Some(id(2, 8)));
    assert_eq!(indices(&mut log).await, [3, 4, 5, 6, 7, 8]);
    log.close();
}

/// What a restart would find to be committed, if the process ended now.
async fn committed_after_a_kill(dir: &TempDir) -> Option<LogId> {
    let copy = TempDir::new().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let mut log = open(copy.path()).unwrap();
    let committed = log.read_committed().await.unwrap();
    log.close();
    committed
}

#[tokio::test]
async fn what_is_committed_is_written_with_the_next_append_or_when_it_is_time() {
    let dir = TempDir::new().unwrap();
    let mut log = open(dir.path()).unwrap();
    log.blocking_append((0..3).map(|index| entry(1, index, 3))).await.unwrap();
    log.save_committed(Some(id(1, 1))).await.unwrap();
    assert_eq!(log.read_committed().await.unwrap(), Some(id(1, 1)));
    assert_eq!(committed_after_a_kill(&dir).await, None);
    log.blocking_append([entry(1, 3, 3)]).await.unwrap();
    assert_eq!(committed_after_a_kill(&dir).await, Some(id(1, 1)));
    log.save_committed(Some(id(1, 3))).await.unwrap();
    log.note_committed().unwrap();
    // Is written behind it.
    log.save_vote(&Vote::new(2, 1)).await.unwrap();
    assert_eq!(committed_after_a_kill(&dir).await, Some(id(1, 3)));
    log.close();
}

#[tokio::test]
async fn a_purge_beyond_the_end_restarts_the_log_there() {
    let dir = TempDir::new().unwrap();
    let mut log = open(dir.path()).unwrap();
    log.blocking_append((0..3).map(|index| entry(1, index, 3))).await.unwrap();
    log.purge(id(2, 20)).await.unwrap();
    log.blocking_append([entry(2, 21, 3)]).await.unwrap();
    assert!(log.blocking_append([entry(2, 23, 3)]).await.is_err(), "a hole");
    log.close();

    let mut log = open(dir.path()).unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(id(2, 20)));
    assert_eq!(indices(&mut log).await, [21]);
    log.close();
}

#[tokio::test]
async fn long_reads_come_from_disk_and_memory_in_bounded_pieces() {
    let dir = TempDir::new().unwrap();
    let mut log = open(dir.path()).unwrap();
    // More than the memory keeps, so the first entries are read from the disk.
    for index in 0..40 {
        log.blocking_append([entry(1, index, 600 << 10)]).await.unwrap();
    }
    assert_eq!(indices(&mut log).await, (0..40).collect::<Vec<_>>());
    for start in [0, 20, 39] {
        let piece = log.limited_get_log_entries(start, 40).await.unwrap();
        assert_eq!(piece.len(), 1, "from {start}: two would exceed 1 MiB");
        assert_eq!(piece[0].log_id.index, start);
    }
    let streamed = log.entries_stream(5..38).await;
    let streamed: Vec<u64> = streamed.map(|entry| entry.unwrap().log_id.index).collect().await;
    assert_eq!(streamed, (5..38).collect::<Vec<_>>());
    log.close();
}

#[tokio::test]
async fn a_truncated_entry_is_never_read_again() {
    let dir = TempDir::new().unwrap();
    let mut log = open(dir.path()).unwrap();
    log.blocking_append((0..100).map(|index| entry(1, index, 10))).await.unwrap();
    log.close();
    let mut log = open(dir.path()).unwrap();
    log.truncate_after(Some(id(1, 49))).await.unwrap();
    log.blocking_append((50..60).map(|index| entry(2, index, 10))).await.unwrap();
    let terms: Vec<u64> = log
        .try_get_log_entries(48..52)
        .await
        .unwrap()
        .iter()
        .map(|entry| entry.log_id.leader_id.term)
        .collect();
    assert_eq!(terms, [1, 1, 2, 2]);
    assert_eq!(indices(&mut log).await.last(), Some(&59));
    log.close();
}

#[test]
fn the_identity_can_be_read_while_the_log_is_open() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    assert_eq!(Database::peek_identity(&RocksStorage, &path).unwrap(), None);
    let database = Database::open(&RocksStorage, &path).unwrap();
    assert_eq!(Database::peek_identity(&RocksStorage, &path).unwrap(), None);
    assert!(database.is_pristine().unwrap());
    let identity = Identity::first([9; 16], 5);
    database.set_identity(identity, Founding::Join).unwrap();
    assert!(!database.is_pristine().unwrap());
    assert_eq!(Database::peek_identity(&RocksStorage, &path).unwrap(), Some(identity));
    assert_eq!(database.identity().unwrap(), Some((identity, Founding::Join)));
}

#[test]
fn a_log_of_a_later_format_is_refused_with_its_number() {
    let dir = TempDir::new().unwrap();
    let database = Database::open(&RocksStorage, dir.path()).unwrap();
    let later = Change::PutValue { name: "format", value: &2u32.to_le_bytes() };
    database.with(|open| open.write(&[later], true)).unwrap();
    database.close();
    let refused = Database::open(&RocksStorage, dir.path()).err().expect("a refusal").to_string();
    assert!(refused.contains("has format 2, this program knows 1"), "{refused}");
    let peeked = Database::peek_identity(&RocksStorage, dir.path()).unwrap_err().to_string();
    assert_eq!(peeked, refused);
}

#[test]
fn an_identity_from_before_there_were_generations_is_that_of_the_first_group() {
    let dir = TempDir::new().unwrap();
    let database = Database::open(&RocksStorage, dir.path()).unwrap();
    // Cluster 0707…, node 5, as it was written.
    let old = [&[0x0a, 16][..], &[7; 16], &[0x10, 5]].concat();
    let old = Change::PutValue { name: "identity", value: &old };
    database.with(|open| open.write(&[old], true)).unwrap();
    let (identity, _) = database.identity().unwrap().unwrap();
    assert_eq!(identity, Identity::first([7; 16], 5));
}

#[test]
fn a_folder_in_use_is_refused() {
    let dir = TempDir::new().unwrap();
    let first = Database::open(&RocksStorage, dir.path()).unwrap();
    assert!(matches!(Database::open(&RocksStorage, dir.path()), Err(Error::Log { .. })));
    first.close();
    Database::open(&RocksStorage, dir.path()).unwrap();
}

/// A log of 100 entries in RocksDB's write-ahead file, whose path it returns.
async fn log_in_one_file(dir: &Path) -> std::path::PathBuf {
    let mut log = open(dir).unwrap();
    for index in 0..100 {
        log.blocking_append([entry(1, index, 1000)]).await.unwrap();
    }
    log.close();
    let is_log = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "log");
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.filter(is_log).max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[tokio::test]
async fn a_torn_end_is_accepted_and_damage_before_it_is_not() {
    let dir = TempDir::new().unwrap();
    let file = log_in_one_file(dir.path()).await;
    let intact = std::fs::read(&file).unwrap();
    assert!(intact.len() > 100_000, "{} bytes", intact.len());
    let mut damaged = intact.clone();
    damaged[intact.len() / 2] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    assert!(matches!(open(dir.path()), Err(Error::Log { .. })));

    std::fs::write(&file, &intact[..intact.len() - 10]).unwrap();
    let mut log = open(dir.path()).unwrap();
    assert_eq!(indices(&mut log).await, (0..99).collect::<Vec<_>>());
    log.close();
}
