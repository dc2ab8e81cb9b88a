//! Snapshots: files that hold the state of the application up to one log entry.
//!
//! They stand in a folder of their own, one file each, named by index and term of the last entry:
//! `00000000000000000042-00000000000000000003.snapshot`. Integers are little-endian.
//!
//! |    offset | size | field         | meaning                                              |
//! |----------:|-----:|---------------|------------------------------------------------------|
//! |         0 |    8 | magic         | `TorusSnp`                                           |
//! |         8 |    4 | version       | 1                                                    |
//! |        12 |    4 | header length | H, at most 1 MiB                                     |
//! |        16 |    H | header        | `SnapshotHeader` of `proto/raft.proto`: group, last entry, membership |
//! |    16 + H |    B | body          | what `StateMachine::snapshot` wrote                  |
//! | 16 + H + B|    8 | body length   | B                                                    |
//! | 24 + H + B|    4 | checksum      | CRC-32 of all bytes before it                        |
//!
//! A file is written under a name ending in `.tmp`, synced, renamed, and the folder synced; only
//! then are older ones removed. So a crash leaves the newest complete file, and a file that is
//! not intact was damaged later: that is an error, because the log before it may be gone.

mod file;
mod shelf;

pub(crate) use file::{SnapshotFile, body, read_meta};
pub(crate) use shelf::{Draft, Shelf};

#[cfg(test)]
mod tests;
