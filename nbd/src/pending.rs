//! A request in flight: what the client asked, and the export's work on it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::check::Command;
use crate::{Errno, Export, ExportError, Extent, ReadData};

/// Ranges longer than this are trimmed and zeroed in pieces, so that a client that leaves does not
/// leave four gibibytes of work behind.
const SLICE: u64 = 128 << 20;

/// What a reply needs to know of its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(crate) cookie: u64,
    pub(crate) command: Command,
}

impl Ticket {
    /// Memory that the request takes until its reply is sent, in bytes.
    pub(crate) fn cost(&self) -> u64 {
        match self.command {
            Command::Read { length, .. } | Command::Write { length, .. } => u64::from(length),
            _ => 0,
        }
    }
}

/// What an export did.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    Data(ReadData),
    Extents(Vec<Extent>),
}

/// A request and its outcome.
pub(crate) struct Finished {
    pub(crate) ticket: Ticket,
    pub(crate) result: Result<Outcome, ExportError>,
}

enum Work<'e> {
    Failed(Errno),
    Unit(BoxFuture<'e, Result<(), ExportError>>),
    Read(BoxFuture<'e, Result<ReadData, ExportError>>),
    Extents(BoxFuture<'e, Result<Vec<Extent>, ExportError>>),
    Nothing,
}

/// The work on one request. The export's own future is all that is allocated for it.
pub(crate) struct Pending<'e> {
    ticket: Ticket,
    work: Work<'e>,
}

impl<'e> Pending<'e> {
    /// `stop` ends work in pieces early.
    pub(crate) fn new(
        export: &'e dyn Export,
        stop: &'e AtomicBool,
        ticket: Ticket,
        payload: Bytes,
    ) -> Self {
        let work = match ticket.command {
            Command::Read { offset, length, .. } => Work::Read(export.read(offset, length)),
            Command::Write { offset, fua, .. } => Work::Unit(export.write(offset, payload, fua)),
            Command::Flush => Work::Unit(export.flush()),
            Command::Trim { offset, length, fua } => {
                let slices = Slices { offset, length: length.into(), fua };
                slices
                    .work(export, stop, move |offset, length, fua| export.trim(offset, length, fua))
            }
            Command::WriteZeroes { offset, length, no_hole, fast, .. }
                if fast && !export.zeroes_fast(offset, length.into(), no_hole) =>
            {
                Work::Failed(Errno::NotSupported)
            }
            Command::WriteZeroes { offset, length, fua, no_hole, .. } => {
                let slices = Slices { offset, length: length.into(), fua };
                slices.work(export, stop, move |offset, length, fua| {
                    export.write_zeroes(offset, length, fua, no_hole)
                })
            }
            Command::Cache { offset, length } => Work::Unit(export.cache(offset, length.into())),
            Command::BlockStatus { offset, length, .. } => {
                Work::Extents(export.block_status(offset, length.into()))
            }
            Command::Nothing | Command::Disconnect => Work::Nothing,
        };
        Self { ticket, work }
    }
}

/// A range that may be too long for one call.
struct Slices {
    offset: u64,
    length: u64,
    fua: bool,
}

impl Slices {
    fn work<'e>(
        self,
        export: &'e dyn Export,
        stop: &'e AtomicBool,
        call: impl Fn(u64, u64, bool) -> BoxFuture<'e, Result<(), ExportError>> + Send + 'e,
    ) -> Work<'e> {
        let Self { offset, length, fua } = self;
        if length <= SLICE {
            return Work::Unit(call(offset, length, fua));
        }
        Work::Unit(Box::pin(async move {
            let mut done = 0;
            while done < length {
                if stop.load(Ordering::Relaxed) {
                    return Err(Errno::ShuttingDown.into());
                }
                let slice = SLICE.min(length - done);
                call(offset + done, slice, false).await?;
                done += slice;
            }
            // One flush is what all pieces need to be durable together.
            if fua { export.flush().await } else { Ok(()) }
        }))
    }
}

impl Future for Pending<'_> {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Finished> {
        let result = match &mut self.work {
            Work::Failed(errno) => Poll::Ready(Err(ExportError::from(*errno))),
            Work::Unit(work) => work.as_mut().poll(cx).map_ok(|()| Outcome::Done),
            Work::Read(work) => work.as_mut().poll(cx).map_ok(Outcome::Data),
            Work::Extents(work) => work.as_mut().poll(cx).map_ok(Outcome::Extents),
            Work::Nothing => Poll::Ready(Ok(Outcome::Done)),
        };
        result.map(|result| Finished { ticket: self.ticket, result })
    }
}
