//! What clients ask of an open volume.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::edge::Unaligned;
use super::{Event, Reply, Waiter, Writer};
use crate::Error;
use crate::overlay::Page;
use crate::read::{self, Piece};
use crate::record::PAGE;

/// Something asked of the volume. Ranges have been checked against its size.
pub(crate) enum Request {
    Read {
        offset: u64,
        length: u32,
        reply: Reply<Vec<Bytes>>,
    },
    Write {
        offset: u64,
        data: Bytes,
        fua: bool,
        reply: Reply<()>,
    },
    /// Zeroes whole pages.
    Zero {
        page: u64,
        count: u32,
        fua: bool,
        reply: Reply<()>,
    },
    Flush {
        reply: Reply<()>,
    },
    /// Which runs of pages are mapped: page counts.
    Mapped {
        page: u64,
        count: u32,
        reply: oneshot::Sender<Vec<(u32, bool)>>,
    },
    Info {
        reply: oneshot::Sender<Info>,
    },
    /// Moves the head up to everything written so far.
    Checkpoint {
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

/// Figures of an open volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bytes that are mapped.
    pub mapped: u64,
    /// Blocks of its log.
    pub blocks: u64,
    /// Bytes of log behind the last checkpoint.
    pub log: u64,
}

impl Writer {
    pub(super) fn request(&mut self, request: Request) {
        match request {
            Request::Read { offset, length, reply } => self.read(offset, length, reply),
            Request::Write { .. } | Request::Zero { .. } => self.admit(request),
            Request::Flush { reply } => {
                let operations = self.overlay.queued();
                self.wait_durable(operations, reply);
            }
            Request::Mapped { page, count, reply } => {
                // Whoever asked may have gone away; so too below.
                let _ = reply.send(self.mapped(page, count));
            }
            Request::Info { reply } => {
                let _ = reply.send(Info {
                    mapped: self.map.mapped_pages() * u64::from(PAGE),
                    blocks: self.map.table.block_count(),
                    log: self.log.written() - self.checkpointed,
                });
            }
            Request::Checkpoint { reply } => match &self.failed {
                Some(error) => {
                    let _ = reply.send(Err(error.clone()));
                }
                None => self.checkpoint_wanted.push(reply),
            },
            Request::Close { reply } => self.closing = Some(reply),
        }
    }

    /// Carries out a write or zeroing, or lets it wait for its turn.
    fn admit(&mut self, request: Request) {
        if self.may_admit() { self.carry_out(request) } else { self.waiting.push_back(request) }
    }

    pub(super) fn admit_waiting(&mut self) {
        while self.may_admit_waiting()
            && let Some(request) = self.waiting.pop_front()
        {
            self.carry_out(request);
        }
    }

    fn may_admit(&self) -> bool {
        self.waiting.is_empty() && self.may_admit_waiting()
    }

    fn may_admit_waiting(&self) -> bool {
        let buffered = self.overlay.bytes() + self.log.unacknowledged();
        self.failed.is_some() || (!self.reading_edges && buffered < self.options.buffer_bytes)
    }

    fn carry_out(&mut self, request: Request) {
        match request {
            Request::Write { offset, data, fua, reply } => {
                if let Some(error) = &self.failed {
                    let _ = reply.send(Err(error.clone()));
                } else if offset % u64::from(PAGE) == 0 && data.len() % PAGE as usize == 0 {
                    self.accept(offset / u64::from(PAGE), data, fua, reply);
                } else {
                    self.write_unaligned(Unaligned { offset, data, fua, reply });
                }
            }
            Request::Zero { page, count, fua, reply } => {
                if let Some(error) = &self.failed {
                    let _ = reply.send(Err(error.clone()));
                } else {
                    self.overlay.zero(page, count);
                    self.accepted(fua, reply);
                }
            }
            _ => self.request(request),
        }
    }

    /// Takes whole pages; acknowledged at once, or when durable.
    pub(super) fn accept(&mut self, page: u64, data: Bytes, fua: bool, reply: Reply<()>) {
        if !data.is_empty() {
            self.overlay.write(page, data);
        }
        self.accepted(fua, reply);
    }

    fn accepted(&mut self, fua: bool, reply: Reply<()>) {
        if fua {
            let operations = self.overlay.queued();
            self.wait_durable(operations, reply);
        } else {
            let _ = reply.send(Ok(()));
        }
    }

    fn wait_durable(&mut self, operations: u64, reply: Reply<()>) {
        match &self.failed {
            Some(error) => {
                let _ = reply.send(Err(error.clone()));
            }
            None => self.waiters.push(Waiter { operations, sequence: None, reply }),
        }
    }

    fn read(&mut self, offset: u64, length: u32, reply: Reply<Vec<Bytes>>) {
        if let Some(error @ Error::TakenOver { .. }) = &self.failed {
            // Another opener may have written meanwhile: what this one knows is stale.
            let _ = reply.send(Err(error.clone()));
            return;
        }
        let page = offset / u64::from(PAGE);
        let end = (offset + u64::from(length)).div_ceil(u64::from(PAGE));
        let pieces = self.pieces(page, (end - page) as u32);
        let skip = (offset % u64::from(PAGE)) as usize;
        if pieces.iter().all(Piece::is_here) {
            let whole = pieces.into_iter().map(Piece::here);
            let _ = reply.send(Ok(read::cut_to(whole.collect(), skip, length as usize)));
            return;
        }
        let pool = self.context.pool.clone();
        tokio::spawn(async move {
            let whole = read::fetch(&pool, pieces).await;
            let _ = reply.send(whole.map(|whole| read::cut_to(whole, skip, length as usize)));
        });
    }

    /// The content of pages: what is in memory, and where the rest stands.
    pub(super) fn pieces(&self, page: u64, count: u32) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut rest = Vec::new();
        if self.overlay.is_empty() {
            rest.push((page, count));
        } else {
            for page in page..page + u64::from(count) {
                match (self.overlay.page(page), rest.last_mut()) {
                    (Some(content), _) => {
                        self.stored_pieces(&mut rest, &mut pieces);
                        pieces.push(match content {
                            Page::Data(data) => Piece::Here(data),
                            Page::Zero => Piece::zeroes(1),
                        });
                    }
                    (None, Some((start, count))) if *start + u64::from(*count) == page => {
                        *count += 1;
                    }
                    (None, _) => rest.push((page, 1)),
                }
            }
        }
        self.stored_pieces(&mut rest, &mut pieces);
        pieces
    }

    fn stored_pieces(&self, runs: &mut Vec<(u64, u32)>, pieces: &mut Vec<Piece>) {
        for (page, count) in runs.drain(..) {
            self.map.lookup(page, count, |run| {
                let Some(location) = run.location else {
                    pieces.push(Piece::zeroes(run.count));
                    return;
                };
                let Some(entry) = self.map.table.get(location.block) else {
                    unreachable!(
                        "the map points at block {}, which is not in the table",
                        location.block
                    )
                };
                let stored = read::StoredRun::new(self.identity.volume, entry, location, run.count);
                match stored.in_log(&self.log) {
                    Some(here) => pieces.extend(here.into_iter().map(Piece::Here)),
                    None => pieces.push(Piece::Stored(stored)),
                }
            });
        }
    }

    fn mapped(&self, page: u64, count: u32) -> Vec<(u32, bool)> {
        let mut runs: Vec<(u32, bool)> = Vec::new();
        let mut add = |count: u32, mapped: bool| match runs.last_mut() {
            Some((pages, last)) if *last == mapped => *pages += count,
            _ => runs.push((count, mapped)),
        };
        self.map.lookup(page, count, |run| {
            if self.overlay.is_empty() {
                add(run.count, run.location.is_some());
                return;
            }
            for page in run.page..run.page + u64::from(run.count) {
                let pending = self.overlay.page(page).map(|content| content != Page::Zero);
                add(1, pending.unwrap_or(run.location.is_some()));
            }
        });
        runs
    }

    pub(super) fn push_event(
        &self,
        event: impl Future<Output = Event> + std::marker::Send + 'static,
    ) {
        self.events.push(Box::pin(event));
    }
}
