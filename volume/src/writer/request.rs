//! What clients ask of an open volume.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use torus_metadata::SnapshotId;

use super::asks::Asker;
use super::edge::Unaligned;
use super::{Event, Reply, Waiter, Writer};
use crate::Error;
use crate::map::Map;
use crate::overlay::{Overlay, Page};
use crate::read::{self, Piece};
use crate::record::PAGE;
use crate::snapshot::{Stored, pages_of, stored_runs};

/// For so long what was said of the peers' space is believed.
const SPACE_AGE: Duration = Duration::from_millis(20);
/// For so long writes wait for garbage collection when the peers are full; then they are refused.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether there is room again.
const LOOK_FOR_SPACE: Duration = Duration::from_millis(50);

/// Whether the peers can take a write.
enum Space {
    Enough,
    /// Not now, but what is being collected or freed will do.
    Coming,
    None,
}

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
        reply: Reply<Vec<(u32, bool)>>,
    },
    /// Where runs of pages are stored: page counts.
    Places {
        page: u64,
        count: u32,
        reply: Reply<Vec<(u32, Option<Stored>)>>,
    },
    Info {
        reply: oneshot::Sender<Info>,
    },
    /// Takes a snapshot of all that was accepted so far.
    Snapshot {
        name: String,
        created_ms: u64,
        reply: Reply<SnapshotId>,
    },
    Resize {
        size: u64,
        discard: bool,
        reply: Reply<()>,
    },
    /// Waits until what can be given back now was given back; whether nothing is left.
    Reclaim {
        reply: Reply<bool>,
    },
    /// Copies what is still in the parent's blocks.
    Flatten {
        reply: Reply<()>,
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
    /// Blocks that the map points into.
    pub blocks: u64,
    /// Bytes of log behind the last checkpoint.
    pub log: u64,
    /// Bytes of the own blocks, garbage included.
    pub stored: u64,
    /// What the map takes of memory, in bytes.
    pub map_memory: u64,
}

impl Info {
    /// With so many bytes of log behind the last checkpoint.
    pub(crate) fn of(map: &Map, log: u64) -> Self {
        let totals = map.table.totals();
        Self {
            mapped: map.mapped_pages() * u64::from(PAGE),
            blocks: totals.own_blocks + totals.foreign_blocks,
            log,
            stored: totals.own_bytes,
            map_memory: map.memory() as u64,
        }
    }
}

impl Request {
    /// Tells whoever asked that it cannot be done.
    pub(crate) fn refuse(self, error: &Error) {
        // Whoever asked may have gone away.
        match self {
            Self::Read { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Mapped { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Places { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Snapshot { reply, .. } => drop(reply.send(Err(error.clone()))),
            Self::Reclaim { reply } => drop(reply.send(Err(error.clone()))),
            Self::Info { .. } => {}
            Self::Write { reply, .. }
            | Self::Zero { reply, .. }
            | Self::Flush { reply }
            | Self::Resize { reply, .. }
            | Self::Flatten { reply }
            | Self::Checkpoint { reply }
            | Self::Close { reply } => drop(reply.send(Err(error.clone()))),
        }
    }
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
            Request::Mapped { page, count, .. } | Request::Places { page, count, .. } => {
                match self.is_ready(page, count) {
                    Ok(true) => self.tell_of_map(request),
                    Ok(false) => self.park(request),
                    Err(error) => request.refuse(&error),
                }
            }
            Request::Info { reply } => {
                // Whoever asked may have gone away; so too below.
                let _ = reply.send(Info::of(&self.map, self.log.written() - self.checkpointed));
            }
            Request::Snapshot { name, created_ms, reply } => {
                self.snapshot(name, created_ms, reply);
            }
            Request::Resize { size, discard, reply } => {
                self.begin_resize(size, discard, Asker::Handle(reply));
            }
            Request::Flatten { reply } => self.flatten(reply),
            Request::Reclaim { reply } => match &self.failed {
                Some(error) => {
                    let _ = reply.send(Err(error.clone()));
                }
                None => self.reclaimer.wait(reply),
            },
            Request::Checkpoint { reply } => match &self.failed {
                Some(error) => {
                    let _ = reply.send(Err(error.clone()));
                }
                None => {
                    self.want_all();
                    self.checkpoint_wanted.push(reply);
                }
            },
            Request::Close { reply } => self.close(reply),
        }
    }

    /// Carries out a write or zeroing, or lets it wait for its turn.
    fn admit(&mut self, request: Request) {
        if !self.may_admit() {
            self.waiting.push_back(request);
        } else if let Some(waits) = self.carry_out(request) {
            self.waiting.push_back(waits);
        }
    }

    pub(super) fn admit_waiting(&mut self) {
        while self.may_admit_waiting()
            && let Some(request) = self.waiting.pop_front()
        {
            if let Some(waits) = self.carry_out(request) {
                return self.waiting.push_front(waits);
            }
        }
    }

    /// What becomes of a write for want of space, or not: while the peers are full, but of what is
    /// being collected or freed, it waits.
    fn space(&mut self) -> Space {
        if !self.is_full() {
            self.waiting_since = None;
            return Space::Enough;
        }
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let comes_back = self.has_garbage() || self.reclaimer.gives_back();
        let waits = self.failed.is_none() && since.elapsed() < PATIENCE && comes_back;
        if waits && !self.looking_for_space {
            self.looking_for_space = true;
            self.push_event(async {
                tokio::time::sleep(LOOK_FOR_SPACE).await;
                Event::LookForSpace
            });
        }
        if waits { Space::Coming } else { Space::None }
    }

    fn may_admit(&self) -> bool {
        self.waiting.is_empty() && self.may_admit_waiting()
    }

    fn may_admit_waiting(&self) -> bool {
        let buffered = self.overlay.bytes() + self.log.unacknowledged();
        let is_open = !self.reading_edges && !self.asks.stands_still();
        self.failed.is_some() || (is_open && buffered < self.options.buffer_bytes)
    }

    /// The request, if it has to wait for space.
    fn carry_out(&mut self, request: Request) -> Option<Request> {
        let page_size = u64::from(PAGE);
        match request {
            Request::Write { offset, data, fua, reply } => {
                let end = offset + data.len() as u64;
                if let Some(error) = self.no_write(end) {
                    let _ = reply.send(Err(error));
                    return None;
                }
                match self.space() {
                    Space::Coming => return Some(Request::Write { offset, data, fua, reply }),
                    Space::None => {
                        let _ = reply.send(Err(Error::NoSpace));
                    }
                    Space::Enough if offset % page_size == 0 && data.len() % PAGE as usize == 0 => {
                        self.accept(offset / page_size, data, fua, reply);
                    }
                    Space::Enough => {
                        self.write_unaligned(Unaligned { offset, data, fua, reply });
                    }
                }
            }
            Request::Zero { page, count, fua, reply } => {
                // Never refused for want of space: it is how space comes back.
                if let Some(error) = self.no_write((page + u64::from(count)) * page_size) {
                    let _ = reply.send(Err(error));
                } else {
                    self.overlay.zero(page, count);
                    self.accepted(fua, reply);
                }
            }
            _ => self.request(request),
        }
        None
    }

    /// Whether the peers have no room for anything new.
    pub(super) fn is_full(&mut self) -> bool {
        self.room() == 0
    }

    /// Bytes that the peers have room for, as of the last few milliseconds.
    pub(super) fn room(&mut self) -> u64 {
        if self.asked_for_space.is_none_or(|asked| asked.elapsed() >= SPACE_AGE) {
            self.asked_for_space = Some(Instant::now());
            let before = std::mem::replace(&mut self.last_room, self.context.pool.room());
            if (self.last_room == 0) != (before == 0) {
                tracing::debug!(volume = %self.identity.volume, room = self.last_room, "room at the peers");
                self.collector.map_changed();
                self.waiting_since = None;
            }
        }
        self.last_room
    }

    /// Why nothing can be written up to byte `end`. The volume may have shrunk since the request
    /// was made.
    fn no_write(&self, end: u64) -> Option<Error> {
        let size = self.size.get();
        let behind = (end > size.next_multiple_of(PAGE.into())).then_some(Error::OutOfRange {
            offset: end,
            end,
            size,
        });
        self.failed.clone().or(behind)
    }

    /// Takes whole pages; acknowledged at once, or when durable.
    pub(super) fn accept(&mut self, page: u64, data: Bytes, fua: bool, reply: Reply<()>) {
        if !data.is_empty() {
            self.map.written.client += data.len() as u64;
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

    pub(super) fn wait_durable(&mut self, operations: u64, reply: Reply<()>) {
        match &self.failed {
            Some(error) => {
                let _ = reply.send(Err(error.clone()));
            }
            None => self.waiters.push(Waiter { operations, sequence: None, reply }),
        }
    }

    fn read(&mut self, offset: u64, length: u32, reply: Reply<Vec<Bytes>>) {
        let (page, count) = pages_of(offset, length);
        match self.is_ready(page, count) {
            Ok(true) => {}
            Ok(false) => return self.park(Request::Read { offset, length, reply }),
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        }
        let pieces = self.pieces(page, count);
        let skip = (offset % u64::from(PAGE)) as usize;
        if pieces.iter().all(Piece::is_here) {
            let whole = pieces.into_iter().map(Piece::here);
            let _ = reply.send(Ok(read::cut_to(whole.collect(), skip, length as usize)));
            return;
        }
        let (pool, reader) = (self.context.pool.clone(), self.reclaimer.reader());
        tokio::spawn(async move {
            let whole = read::fetch(&pool, pieces).await;
            drop(reader);
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
                let Some(stored) = read::StoredRun::of(&self.map, &run) else {
                    pieces.push(Piece::zeroes(run.count));
                    return;
                };
                match stored.in_log(&self.log) {
                    Some(here) => pieces.extend(here.into_iter().map(Piece::Here)),
                    None => pieces.push(Piece::Stored(stored)),
                }
            });
        }
    }

    /// Answers what only needs the map, which has come.
    fn tell_of_map(&self, request: Request) {
        match request {
            Request::Mapped { page, count, reply } => {
                let _ = reply.send(Ok(mapped_runs(&self.map, page, count, &self.overlay)));
            }
            Request::Places { page, count, reply } => {
                let _ = reply.send(Ok(stored_runs(&self.map, page, count)));
            }
            _ => {}
        }
    }

    pub(super) fn push_event(
        &self,
        event: impl Future<Output = Event> + std::marker::Send + 'static,
    ) {
        self.events.push(Box::pin(event));
    }
}

/// Which runs of pages hold something.
pub(crate) fn mapped_runs(map: &Map, page: u64, count: u32, overlay: &Overlay) -> Vec<(u32, bool)> {
    let mut runs: Vec<(u32, bool)> = Vec::new();
    let mut add = |count: u32, mapped: bool| match runs.last_mut() {
        Some((pages, last)) if *last == mapped => *pages += count,
        _ => runs.push((count, mapped)),
    };
    map.lookup(page, count, |run| {
        if overlay.is_empty() {
            add(run.count, run.location.is_some());
            return;
        }
        for page in run.page..run.page + u64::from(run.count) {
            let pending = overlay.page(page).map(|content| content != Page::Zero);
            add(1, pending.unwrap_or(run.location.is_some()));
        }
    });
    runs
}
