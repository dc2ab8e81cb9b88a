//! The Raft log, the vote and the identity of a node, in one store: RocksDB ([`rocks`]), or what a
//! simulation has instead.
//!
//! | column family | key                  | value                                            |
//! |---------------|----------------------|--------------------------------------------------|
//! | `raft_log`    | index, u64 big-endian | `Entry` of `proto/raft.proto`                   |
//! | `raft_meta`   | `format`             | u32 little-endian, 1                             |
//! | `raft_meta`   | `identity`           | `Identity`                                       |
//! | `raft_meta`   | `vote`               | `Vote`                                           |
//! | `raft_meta`   | `purged`             | `LogId`, the last entry that was purged          |
//! | `raft_meta`   | `committed`          | `LogId`, an entry known to be committed          |
//!
//! RocksDB checks each record of its write-ahead log and each block with a CRC-32C. Both column
//! families share that write-ahead log, so what a crash leaves is always a prefix of what was
//! written.
//!
//! One thread writes ([`writer`]): it takes what has queued up, writes it as one batch with one
//! sync, and answers in order. The committed ID goes with the next append, or within a second; even the
//! end of the process alone may lose it. An append returns at once, its entries readable in memory
//! ([`tail`]) until they are on disk and newer ones need the room.

mod database;
#[cfg(feature = "rocksdb")]
mod rocks;
mod store;
mod tail;
mod writer;

pub(crate) use database::{Database, Founding};
#[cfg(feature = "rocksdb")]
pub use rocks::RocksStorage;
pub(crate) use store::LogStore;
pub(crate) use writer::Health;

#[cfg(test)]
#[cfg(feature = "rocksdb")]
mod tests;
