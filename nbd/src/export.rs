//! What the server serves: the two traits that turn the arrow from this crate to its users round.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Errno, ExportError, OpenError};

/// What a client learns about an export before it uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size: u64,
    /// Writes are refused before they reach the export.
    pub read_only: bool,
    /// Offsets and lengths are multiples of this: a power of two, 1 to 65,536.
    pub min_block: u32,
    /// Requests of this size and alignment are fast: a power of two, at least 512.
    pub preferred_block: u32,
    /// The longest payload of one request; more than 32 MiB counts as 32 MiB.
    pub max_block: u32,
    /// A flush on one connection covers what was written on all others.
    pub multi_conn: bool,
    /// One line for people; may be empty.
    pub description: String,
}

impl ExportInfo {
    /// A writable export of `size` bytes with the protocol's default block sizes.
    pub fn new(size: u64) -> Self {
        Self {
            size,
            read_only: false,
            min_block: 1,
            preferred_block: 4096,
            max_block: crate::check::MAX_PAYLOAD,
            multi_conn: false,
            description: String::new(),
        }
    }
}

/// A range of bytes as read: pieces that stand one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadData {
    pieces: Vec<ReadPiece>,
}

/// One piece of what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPiece {
    /// Bytes, sent from where they are.
    Data(Bytes),
    /// So many zero bytes that need not be sent to clients with structured replies.
    Hole(u32),
}

impl ReadPiece {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Hole(length) => u64::from(*length),
        }
    }
}

impl ReadData {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes; no bytes add no piece.
    pub fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.pieces.push(ReadPiece::Data(data));
        }
    }

    /// Appends zeroes; a hole of length 0 adds no piece.
    pub fn push_hole(&mut self, length: u32) {
        if length > 0 {
            self.pieces.push(ReadPiece::Hole(length));
        }
    }

    /// Size of all pieces, in bytes.
    pub fn size(&self) -> u64 {
        self.pieces.iter().map(ReadPiece::size).sum()
    }

    /// The pieces in order; none is empty.
    pub fn pieces(&self) -> &[ReadPiece] {
        &self.pieces
    }

    pub(crate) fn into_pieces(self) -> Vec<ReadPiece> {
        self.pieces
    }
}

impl From<Bytes> for ReadData {
    fn from(data: Bytes) -> Self {
        let mut read = Self::new();
        read.push(data);
        read
    }
}

impl FromIterator<Bytes> for ReadData {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        let mut read = Self::new();
        pieces.into_iter().for_each(|piece| read.push(piece));
        read
    }
}

/// A run of bytes of one kind, in the answer to a block status request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Size in bytes, not 0.
    pub length: u64,
    /// No storage is allocated here.
    pub hole: bool,
    /// The bytes read as zeroes.
    pub zero: bool,
}

/// An open export, used by one connection.
///
/// The server checks ranges, alignment and read-only exports, so every call lies within
/// [`ExportInfo::size`]. Calls run concurrently. Each future is polled for the first time in the
/// order in which its request arrived, so an export that gives a write its place before its first
/// `.await` has the writes in the order in which the client sent them.
#[async_trait]
pub trait Export: Send + Sync + 'static {
    /// What clients are told; constant while the export is open.
    fn info(&self) -> ExportInfo;

    /// Reads exactly `length` bytes.
    async fn read(&self, offset: u64, length: u32) -> Result<ReadData, ExportError>;

    /// Writes; with `fua` the data is durable before the answer.
    ///
    /// `data` is a slice of a larger receive buffer: keep a copy, not the slice, for long.
    async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), ExportError>;

    /// Makes every write that was answered before this call durable.
    async fn flush(&self) -> Result<(), ExportError>;

    /// Tells that the contents of the range no longer matter.
    async fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), ExportError>;

    /// Makes the range read as zeroes; with `no_hole` its space stays allocated.
    async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        fua: bool,
        no_hole: bool,
    ) -> Result<(), ExportError>;

    /// Which parts of the range are holes: extents that stand one after another from `offset`, at
    /// least one. They may end early, or late.
    async fn block_status(&self, offset: u64, length: u64) -> Result<Vec<Extent>, ExportError> {
        let _ = offset;
        Ok(vec![Extent { length, hole: false, zero: false }])
    }

    /// Whether [`write_zeroes`](Self::write_zeroes) of this range is faster than writing zeroes.
    /// The answer to a client that asks for fast zeroes or none.
    fn zeroes_fast(&self, offset: u64, length: u64, no_hole: bool) -> bool {
        let _ = (offset, length, no_hole);
        false
    }

    /// Brings the range nearer, if the export has a cache. Its failure harms nobody.
    async fn cache(&self, offset: u64, length: u64) -> Result<(), ExportError> {
        let _ = (offset, length);
        Ok(())
    }

    /// The client disconnected or is gone; no call follows and none is running.
    async fn close(&self);
}

/// All that a server serves.
#[async_trait]
pub trait Exports: Send + Sync + 'static {
    /// The names that any client may see.
    async fn list(&self) -> Result<Vec<String>, ExportError>;

    /// Describes an export without opening or locking it.
    async fn info(&self, name: &str) -> Result<ExportInfo, OpenError>;

    /// Opens an export for one connection.
    async fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError>;
}

impl From<ExportError> for OpenError {
    fn from(error: ExportError) -> Self {
        match error.errno() {
            Errno::ShuttingDown => Self::ShuttingDown,
            _ => Self::Failed(Box::new(error)),
        }
    }
}
