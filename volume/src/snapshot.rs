//! Snapshots, opened to be read: by as many at once as like.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use torus_blockstore::{BlockRef, Epoch, INodeIndex, INodeRef};
use torus_metadata::{Command, MetadataService, Snapshot, Volume as Metadata};

use crate::checkpoint::{LoadError, Loader};
use crate::log::Identity;
use crate::map::{Map, Name};
use crate::open::{QUEUE, Services, find};
use crate::overlay::Overlay;
use crate::read::{self, Piece, StoredRun};
use crate::record::{PAGE, UNIT};
use crate::session::{Held, Session};
use crate::size::Size;
use crate::writer::{Context, Request, mapped_runs};
use crate::{Error, Info, OpenError, Options, Volume};

/// Where a page is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    block: BlockRef,
    /// In bytes.
    offset: u32,
}

/// How a range of a volume differs from what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It may hold other data.
    Data,
    /// It reads as zeros now, and did not before.
    Zero,
}

/// Opens a snapshot of the volume `name`, to be read only. It cannot be deleted meanwhile.
///
/// # Errors
/// [`OpenError::NoSuchSnapshot`], or why its map cannot be read.
pub async fn open_snapshot(
    services: Services,
    name: &str,
    snapshot: &str,
    options: Options,
) -> Result<Volume, OpenError> {
    let volume = find(&services, name).await?;
    let found = volume.snapshots.iter().find(|it| it.name == snapshot);
    let Some(found) = found else {
        let (volume, snapshot) = (name.to_owned(), snapshot.to_owned());
        return Err(OpenError::NoSuchSnapshot { volume, snapshot });
    };
    let session = Session::open(&services.meta, &options.owner, options.session_ttl).await?;
    let id = session.id;
    let result = pin_and_start(&services, &volume, found, options, session).await;
    if result.is_err() {
        // Frees the snapshot at once rather than when the session expires.
        let _ = services.meta.execute(Command::CloseSession(id)).await;
    }
    result
}

async fn pin_and_start(
    services: &Services,
    volume: &Metadata,
    snapshot: &Snapshot,
    options: Options,
    mut session: Session,
) -> Result<Volume, OpenError> {
    let (id, ttl) = (volume.id, options.session_ttl);
    let (session_id, meta) = (session.id, Arc::clone(&services.meta));
    let pin = Command::PinSnapshot { volume: id, snapshot: snapshot.id, session: session_id };
    meta.execute(pin).await?;
    let held = Held::Pin { volume: id, snapshot: snapshot.id };
    let lost = session.keep(Arc::clone(&meta), options.owner.clone(), ttl, held);
    let root = Loader { pool: Arc::clone(&services.pool) }.root(&snapshot.head).await?;
    let map = Map::stored(id, volume.block_spec.clone(), snapshot.head.volume, &root);
    let identity = Identity {
        volume: id,
        inode: INodeIndex(0),
        epoch: Epoch(0),
        block_size: services.pool.block_size(),
    };
    let context = Context {
        pool: Arc::clone(&services.pool),
        meta,
        identity,
        window_blocks: 0,
        copies: volume.block_spec.copies(),
    };
    let (sender, requests) = mpsc::channel(QUEUE);
    let head = snapshot.head.inode_ref();
    let reader = Reader::new(context, map, head, options.map_bytes);
    let meta: Arc<dyn MetadataService> = Arc::clone(&services.meta);
    tokio::spawn(async move {
        let closer = reader.run(requests, lost).await;
        drop(session);
        // It ends by itself too. The closer may have gone away.
        let _ = meta.execute(Command::CloseSession(session_id)).await;
        if let Some(closer) = closer {
            let _ = closer.send(Ok(()));
        }
    });
    Ok(Volume::new(sender, Size::new(snapshot.size), true))
}

/// Something that was under way and has come back.
enum Event {
    Arrived { name: Name, bytes: Result<Bytes, LoadError> },
    Lost(Error),
}

/// The task that serves an open snapshot.
struct Reader {
    context: Context,
    map: Map,
    /// The checkpoint that it is.
    head: INodeRef,
    /// Bytes of leaves that are kept in memory.
    limit: usize,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    parked: Vec<Request>,
    failed: Option<Error>,
}

impl Reader {
    fn new(context: Context, map: Map, head: INodeRef, limit: usize) -> Self {
        let (events, parked) = Default::default();
        Self { context, map, head, limit, events, parked, failed: None }
    }

    /// Serves requests until the snapshot is closed; who is to be told.
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        lost: oneshot::Receiver<Error>,
    ) -> Option<oneshot::Sender<Result<(), Error>>> {
        self.events.push(Box::pin(async move {
            match lost.await {
                Ok(error) => Event::Lost(error),
                Err(_) => std::future::pending().await,
            }
        }));
        loop {
            // Events always hold at least the wait for the pin.
            tokio::select! {
                biased;
                Some(event) = self.events.next() => self.handle(event),
                request = requests.recv() => match request {
                    Some(Request::Close { reply }) => return Some(reply),
                    Some(request) => self.request(request),
                    None => return None,
                },
            }
            self.start_loads();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrived { name, bytes } => {
                let inode = self.head;
                let arrived = bytes.and_then(|bytes| {
                    self.map.arrived(name, &bytes).ok_or(LoadError::Format { inode })
                });
                if let Err(error) = arrived {
                    self.failed = Some(error.into());
                }
            }
            Event::Lost(error) => self.failed = Some(error),
        }
        for request in std::mem::take(&mut self.parked) {
            self.request(request);
        }
    }

    fn start_loads(&mut self) {
        for (name, place) in self.map.take_wanted() {
            let context = self.context.clone();
            self.events.push(Box::pin(async move {
                Event::Arrived { name, bytes: context.load(place).await }
            }));
        }
        // What does not fit is dropped later: everything here is stored.
        self.map.evict(self.limit, None);
    }

    fn request(&mut self, request: Request) {
        let (page, count) = match &request {
            Request::Read { offset, length, .. } => pages_of(*offset, *length),
            Request::Mapped { page, count, .. } | Request::Places { page, count, .. } => {
                (*page, *count)
            }
            Request::Info { .. } => (0, 0),
            Request::Flush { .. } | Request::Checkpoint { .. } => (0, 0),
            _ => return request.refuse(&Error::ReadOnly),
        };
        if let Some(error) = &self.failed {
            return request.refuse(error);
        }
        if !self.map.ready(page, count) {
            return self.parked.push(request);
        }
        // Whoever asked may have gone away.
        match request {
            Request::Read { offset, length, reply } => {
                let pieces = self.pieces(page, count);
                let skip = (offset % u64::from(PAGE)) as usize;
                let pool = Arc::clone(&self.context.pool);
                tokio::spawn(async move {
                    let whole = read::fetch(&pool, pieces).await;
                    let _ = reply.send(whole.map(|it| read::cut_to(it, skip, length as usize)));
                });
            }
            Request::Mapped { reply, .. } => {
                let _ = reply.send(Ok(mapped_runs(&self.map, page, count, &Overlay::default())));
            }
            Request::Places { reply, .. } => {
                let _ = reply.send(Ok(stored_runs(&self.map, page, count)));
            }
            Request::Info { reply } => {
                let _ = reply.send(Info::of(&self.map, 0));
            }
            Request::Flush { reply } | Request::Checkpoint { reply } => {
                let _ = reply.send(Ok(()));
            }
            _ => {}
        }
    }

    fn pieces(&self, page: u64, count: u32) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.map.lookup(page, count, |run| {
            pieces.push(match StoredRun::of(&self.map, &run) {
                Some(stored) => Piece::Stored(stored),
                None => Piece::zeroes(run.count),
            });
        });
        pieces
    }
}

/// The pages that hold a range of bytes: first and count.
pub(crate) fn pages_of(offset: u64, length: u32) -> (u64, u32) {
    let page = offset / u64::from(PAGE);
    let end = (offset + u64::from(length)).div_ceil(u64::from(PAGE));
    (page, (end - page) as u32)
}

/// Where runs of pages are stored: page counts.
pub(crate) fn stored_runs(map: &Map, page: u64, count: u32) -> Vec<(u32, Option<Stored>)> {
    let mut runs = Vec::new();
    map.lookup(page, count, |run| {
        let stored = run.location.and_then(|location| {
            let block = map.table.get(location.block)?.block;
            Some(Stored { block, offset: u32::from(location.offset) * UNIT })
        });
        runs.push((run.count, stored));
    });
    runs
}

/// How a range of `now` differs from the same of `base`: runs in bytes that add up to `length`, of
/// which those without a change are `None`. Both must be snapshots of one volume, or of one and its
/// clone; what stands in the same place is the same.
///
/// # Errors
/// As reading either would give.
pub async fn changes(
    base: &Volume,
    now: &Volume,
    offset: u64,
    length: u32,
) -> Result<Vec<(u64, Option<Change>)>, Error> {
    let (before, after) = (base.places(offset, length).await?, now.places(offset, length).await?);
    let (mut before, mut after) = (before.into_iter(), after.into_iter());
    let (mut left, mut right) = (before.next(), after.next());
    let mut runs: Vec<(u64, Option<Change>)> = Vec::new();
    while let (Some((have, was)), Some((want, is))) = (&mut left, &mut right) {
        let count = (*have).min(*want);
        let change = match (&*was, &*is) {
            (was, is) if was == is => None,
            (_, Some(_)) => Some(Change::Data),
            (_, None) => Some(Change::Zero),
        };
        let bytes = u64::from(count) * u64::from(PAGE);
        match runs.last_mut() {
            Some((length, last)) if *last == change => *length += bytes,
            _ => runs.push((bytes, change)),
        }
        for (pages, place) in [(&mut *have, was), (&mut *want, is)] {
            *pages -= count;
            if let Some(place) = place {
                place.offset += count * PAGE;
            }
        }
        if *have == 0 {
            left = before.next();
        }
        if *want == 0 {
            right = after.next();
        }
    }
    Ok(runs)
}
