//! The handle of an open volume.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use torus_metadata::SnapshotId;

use crate::Error;
use crate::record::PAGE;
use crate::size::Size;
use crate::snapshot::{Stored, pages_of};
use crate::writer::{Info, Request};

/// How a volume is opened and served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who opens it, for people: host and process.
    pub owner: String,
    /// How long the lock outlives an opener that dies.
    pub session_ttl: Duration,
    /// How long opening waits for peers without which the log cannot be read.
    pub attach_timeout: Duration,
    /// Blocks that a window permits: the metadata is asked once for so many.
    pub window_blocks: u64,
    /// Log that is written between two checkpoints, in bytes. Four times as much where the
    /// checkpoints are large: recovery reads no more than that.
    pub checkpoint_bytes: u64,
    /// Sealed blocks that are kept in memory for reads, in bytes.
    pub cache_bytes: usize,
    /// Leaves of the map that are kept in memory, in bytes; what changed since the last checkpoint
    /// may take more for a while.
    pub map_bytes: usize,
    /// The time of day in milliseconds since 1970, for people: checkpoints note when they were made.
    pub wall_clock: fn() -> u64,
    /// Accepted data that peers have not acknowledged, in bytes; past it writes wait.
    pub buffer_bytes: usize,
}

impl Options {
    /// The defaults, for `owner`.
    pub fn new(owner: String, wall_clock: fn() -> u64) -> Self {
        Self {
            owner,
            session_ttl: Duration::from_secs(5),
            attach_timeout: Duration::from_secs(30),
            window_blocks: 128,
            checkpoint_bytes: 256 << 20,
            cache_bytes: 64 << 20,
            map_bytes: 256 << 20,
            wall_clock,
            buffer_bytes: 16 << 20,
        }
    }
}

/// An open volume. Methods may be called at once from many tasks; requests take effect in the order
/// in which the calls were first polled. Dropping it closes the volume in the background.
#[derive(Debug)]
pub struct Volume {
    requests: mpsc::Sender<Request>,
    size: Size,
    is_snapshot: bool,
}

impl Volume {
    pub(crate) fn new(requests: mpsc::Sender<Request>, size: Size, is_snapshot: bool) -> Self {
        Self { requests, size, is_snapshot }
    }

    /// Bytes; of a volume that is resized, at this moment.
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    /// Whether it is a snapshot, which can only be read.
    pub fn is_snapshot(&self) -> bool {
        self.is_snapshot
    }

    /// Reads a range: pieces that stand one after another.
    pub async fn read(&self, offset: u64, length: u32) -> Result<Vec<Bytes>, Error> {
        self.check(offset, u64::from(length))?;
        self.ask(|reply| Request::Read { offset, length, reply }).await
    }

    /// Writes a range. Durable after the next [`flush`](Self::flush), with `fua` on return.
    pub async fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), Error> {
        self.check(offset, data.len() as u64)?;
        self.ask(|reply| Request::Write { offset, data, fua, reply }).await
    }

    /// Returns when every write that was acknowledged before is durable.
    pub async fn flush(&self) -> Result<(), Error> {
        self.ask(|reply| Request::Flush { reply }).await
    }

    /// Gives whole pages of the range back; they read as zeros. Its edges stay as they are.
    pub async fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
        self.check(offset, length)?;
        let page = u64::from(PAGE);
        self.zero(offset.div_ceil(page), (offset + length) / page, fua).await
    }

    /// Makes the range read as zeros.
    pub async fn write_zeroes(&self, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
        self.check(offset, length)?;
        let (page, end) = (u64::from(PAGE), offset + length);
        let (first, last) = (offset.div_ceil(page), end / page);
        if first > last {
            // The range lies within one page.
            return self.write(offset, zeroes(length), fua).await;
        }
        let (head, tail) = (first * page - offset, end - last * page);
        if head > 0 {
            self.write(offset, zeroes(head), fua).await?;
        }
        if tail > 0 {
            self.write(last * page, zeroes(tail), fua).await?;
        }
        self.zero(first, last, fua).await
    }

    /// Runs of the range, by whether they are mapped: lengths in bytes that add up to `length`.
    pub async fn mapped(&self, offset: u64, length: u32) -> Result<Vec<(u32, bool)>, Error> {
        self.check(offset, u64::from(length))?;
        let (page, count) = pages_of(offset, length);
        let runs = self.ask(|reply| Request::Mapped { page, count, reply }).await?;
        let (mut skip, mut left) = ((offset % u64::from(PAGE)) as u32, length);
        let cut = runs.into_iter().map(|(pages, mapped)| {
            let bytes = (pages * PAGE - skip).min(left);
            skip = 0;
            left -= bytes;
            (bytes, mapped)
        });
        Ok(cut.filter(|(bytes, _)| *bytes > 0).collect())
    }

    /// Figures of the volume.
    pub async fn info(&self) -> Result<Info, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Info { reply }).await?;
        answer.await.map_err(|_| Error::Closed)
    }

    /// Stores the map: recovery then has nothing older to read.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        self.ask(|reply| Request::Checkpoint { reply }).await
    }

    /// Takes a snapshot of everything that was written so far. `created_ms` is the time since 1970,
    /// for people.
    ///
    /// # Errors
    /// [`Error::Refused`] when the name is taken or not valid.
    pub async fn snapshot(&self, name: &str, created_ms: u64) -> Result<SnapshotId, Error> {
        let name = name.to_owned();
        self.ask(|reply| Request::Snapshot { name, created_ms, reply }).await
    }

    /// Changes the size. A smaller one cuts data behind the new end only with `discard`.
    ///
    /// # Errors
    /// [`Error::HoldsData`]: there is data, and nothing was changed.
    pub async fn resize(&self, size: u64, discard: bool) -> Result<(), Error> {
        self.ask(|reply| Request::Resize { size, discard, reply }).await
    }

    /// Copies what a clone still has in its parent's blocks, so that it stands by itself.
    pub async fn flatten(&self) -> Result<(), Error> {
        self.ask(|reply| Request::Flatten { reply }).await
    }

    /// Waits until what can be given back of the peers' space now was given back, as that of deleted
    /// snapshots; whether nothing is left for later.
    pub async fn reclaim(&self) -> Result<bool, Error> {
        self.ask(|reply| Request::Reclaim { reply }).await
    }

    /// Where the pages of a range are stored; the range may pass the end.
    pub(crate) async fn places(
        &self,
        offset: u64,
        length: u32,
    ) -> Result<Vec<(u32, Option<Stored>)>, Error> {
        let (page, count) = pages_of(offset, length);
        self.ask(|reply| Request::Places { page, count, reply }).await
    }

    /// Stores everything and frees the lock. The volume answers nothing afterwards.
    pub async fn close(&self) -> Result<(), Error> {
        self.ask(|reply| Request::Close { reply }).await
    }

    /// Zeroes pages `first..last` in requests of at most 2^31 pages.
    async fn zero(&self, first: u64, last: u64, fua: bool) -> Result<(), Error> {
        let mut page = first;
        while page < last {
            let count = (last - page).min(1 << 31) as u32;
            self.ask(|reply| Request::Zero { page, count, fua, reply }).await?;
            page += u64::from(count);
        }
        Ok(())
    }

    fn check(&self, offset: u64, length: u64) -> Result<(), Error> {
        let end = offset.saturating_add(length);
        let size = self.size();
        if end > size {
            return Err(Error::OutOfRange { offset, end, size });
        }
        Ok(())
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply)).await?;
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn send(&self, request: Request) -> Result<(), Error> {
        self.requests.send(request).await.map_err(|_| Error::Closed)
    }
}

fn zeroes(length: u64) -> Bytes {
    BytesMut::zeroed(length as usize).freeze()
}

#[cfg(test)]
mod pool;
#[cfg(test)]
mod tests;
