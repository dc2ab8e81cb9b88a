//! Reads pages from the replicas and checks each against the CRC that its record holds.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::try_join_all;
use torus_blockstore::{BlockPool, BlockRef, ByteRange, PeerId, PoolError};

use crate::Error;
use crate::log::Log;
use crate::map::{Map, Run};
use crate::record::{MAX_HEADER, PAGE, UNIT, decode_header};
use crate::retry::{MISSES, RETRY};

/// A run of pages that stand one after another in one record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredRun {
    block: BlockRef,
    /// Of the first page, in bytes.
    offset: u32,
    /// Of the record's header, in bytes.
    header: u32,
    /// Pages.
    count: u32,
}

/// A part of what a read asks for.
pub(crate) enum Piece {
    Here(Bytes),
    Stored(StoredRun),
}

impl Piece {
    pub(crate) fn zeroes(pages: u32) -> Self {
        Self::Here(BytesMut::zeroed((pages * PAGE) as usize).freeze())
    }

    pub(crate) fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// The bytes of a piece that is here.
    pub(crate) fn here(self) -> Bytes {
        match self {
            Self::Here(bytes) => bytes,
            Self::Stored(run) => unreachable!("{} is not here", run.block),
        }
    }
}

impl StoredRun {
    /// Where a run of the map is stored; `None`: nowhere, it reads as zeros.
    pub(crate) fn of(map: &Map, run: &Run) -> Option<Self> {
        let location = run.location?;
        let Some(entry) = map.table.get(location.block) else {
            unreachable!("the map points at block {}, which is not in the table", location.block)
        };
        Some(Self {
            block: entry.block,
            offset: u32::from(location.offset) * UNIT,
            header: u32::from(location.header) * UNIT,
            count: run.count,
        })
    }

    /// The pages, if their block is in memory.
    pub(crate) fn in_log(&self, log: &Log) -> Option<Vec<Bytes>> {
        let (mut at, end) = (self.offset, self.offset + self.count * PAGE);
        let mut pieces = Vec::new();
        while at < end {
            let mut piece = log.read(self.block, at)?;
            piece.truncate((end - at) as usize);
            at += piece.len() as u32;
            pieces.push(piece);
        }
        Some(pieces)
    }

    /// Reads the pages from one replica after another until one has them intact.
    async fn fetch(self, pool: &Arc<dyn BlockPool>) -> Result<Bytes, Error> {
        let pages = ByteRange { offset: self.offset, length: self.count * PAGE };
        let near = self.offset - self.header <= MAX_HEADER;
        let ranges = if near {
            let length = pages.offset + pages.length - self.header;
            vec![ByteRange { offset: self.header, length }]
        } else {
            vec![ByteRange { offset: self.header, length: MAX_HEADER }, pages]
        };
        let mut avoid: Vec<PeerId> = Vec::new();
        let mut missed = 0;
        loop {
            let found = pool.read(self.block, ranges.clone(), Vec::new(), avoid.clone()).await;
            let (peer, bytes) = match found {
                Ok(found) => found,
                Err(PoolError::Unavailable { silent, .. })
                    if silent.iter().all(|peer| avoid.contains(peer)) =>
                {
                    // Every copy there is was read, and none is intact.
                    return Err(Error::Damaged { block: self.block });
                }
                Err(error @ PoolError::NoSuchBlock { .. }) if missed < MISSES => {
                    // The map points at it, so it exists: it may be on its way between two peers,
                    // or with one that this process has not heard of yet.
                    tracing::warn!(%error, "a read looks again");
                    missed += 1;
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(error @ PoolError::Unavailable { .. }) => {
                    // As a disk does: a pause rather than an error that file systems do not survive.
                    tracing::warn!(%error, "a read waits");
                    tokio::time::sleep(RETRY).await;
                    avoid.clear();
                    continue;
                }
                Err(source) => return Err(Error::Read { block: self.block, source }),
            };
            let data = bytes.slice(bytes.len() - pages.length as usize..);
            if self.is_intact(&bytes, &data) {
                return Ok(data);
            }
            tracing::warn!(%peer, block = %self.block, "a copy fails its checksum");
            pool.suspect(peer, self.block);
            avoid.push(peer);
        }
    }

    fn is_intact(&self, header: &[u8], pages: &[u8]) -> bool {
        let Ok(header) = decode_header(header, self.block, self.header) else { return false };
        let Some(behind) = (self.offset - self.header).checked_sub(header.length) else {
            return false;
        };
        let first = (behind / PAGE) as usize;
        pages
            .chunks_exact(PAGE as usize)
            .enumerate()
            .all(|(index, page)| header.page_is_intact(first + index, page))
    }
}

/// The bytes of all pieces, in order.
pub(crate) async fn fetch(
    pool: &Arc<dyn BlockPool>,
    pieces: Vec<Piece>,
) -> Result<Vec<Bytes>, Error> {
    try_join_all(pieces.into_iter().map(|piece| async move {
        match piece {
            Piece::Here(bytes) => Ok(bytes),
            Piece::Stored(run) => run.fetch(pool).await,
        }
    }))
    .await
}

/// Cuts whole pages to the `length` bytes behind the first `skip`.
pub(crate) fn cut_to(mut pieces: Vec<Bytes>, skip: usize, length: usize) -> Vec<Bytes> {
    if let Some(first) = pieces.first_mut() {
        // A first piece is at least a page, and less than a page is skipped.
        *first = first.slice(skip..);
    }
    let mut left = length;
    for piece in &mut pieces {
        piece.truncate(left);
        left -= piece.len();
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}
