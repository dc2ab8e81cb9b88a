//! The one task that owns an open volume: takes requests, keeps the log and the map, and sends.
//!
//! Requests come in through a channel, results of everything that is under way through `events`;
//! after each batch of either, [`pump`](Writer::pump) sends what may be sent.

mod asks;
mod background;
mod collect;
mod context;
mod edge;
mod paging;
mod reads;
mod reclaim;
mod request;
mod resize;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use torus_blockstore::{BlockIndex, BlockPool, CutOff, INodeIndex};
use torus_metadata::{AskId, Head, Revision, SnapshotId, Volume as Metadata};

use crate::checkpoint::{LoadError, Prepared};
use crate::follow::Seen;
use crate::groups::Groups;
use crate::log::{Allotment, BlockContent, Identity, Log, Send};
use crate::map::{Map, Name};
use crate::overlay::Overlay;
use crate::recovery::Tail;
use crate::size::Size;
use crate::{Error, Options};

pub(crate) use context::{Context, WindowPlan};
pub use request::Info;
pub(crate) use request::{Request, mapped_runs};

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// How many bytes may be under way to the peers before further writes wait for company: enough to
/// keep them busy, little enough that writes gather into large records.
const IN_FLIGHT: usize = 4 << 20;
/// Writes that nobody waits for gather up to so many bytes (with more under way, as many as are), or
/// for so long, before they are sent: an append of one page costs each peer nearly as much as one of
/// sixteen. A flush takes them along.
const GATHER: usize = 64 << 10;
const LINGER: Duration = Duration::from_millis(2);
/// How often the writer looks for what is due without a cause: old logs, dead blocks, peers to
/// clean up on.
const TICK: Duration = Duration::from_secs(5);
/// Blocks that may be waiting for their seal.
const MAX_OPEN_BLOCKS: usize = 16;

/// Something that was under way and has come back.
enum Event {
    Appended {
        index: BlockIndex,
        end: u32,
        sync: bool,
        result: Result<(), CutOff>,
    },
    Sealed {
        index: BlockIndex,
        result: Result<(), CutOff>,
    },
    Window(Result<Allotment, Error>),
    /// The blocks with these indexes are safe on other peers; the log goes on.
    Mended {
        sealed: Vec<BlockIndex>,
        result: Result<Allotment, Error>,
    },
    INodes(Result<Vec<INodeIndex>, Error>),
    /// With what came of the snapshots that were taken of it.
    Stored(Result<Vec<Result<SnapshotId, Error>>, Error>),
    /// Something of the map that was not in memory.
    Arrived {
        name: Name,
        bytes: Result<Bytes, LoadError>,
    },
    Collected(collect::Victim),
    Reclaimed(reclaim::Step),
    /// All volumes of a group stand still, or not all do.
    Gathered {
        ask: AskId,
        result: Result<(), Error>,
    },
    Resized {
        size: u64,
        result: Result<Revision, Error>,
    },
    Flattened(Result<(), Error>),
    /// Something was said to the metadata service of which nothing depends.
    Told,
    /// There may be room again.
    LookForSpace,
    /// What was accepted a while ago is to be sent.
    Lingered,
    /// The edge pages of a write that does not begin or end with a page.
    Edges {
        write: edge::Unaligned,
        pages: Result<BTreeMap<u64, Bytes>, Error>,
    },
    /// Another opener has the volume, or its lock is gone for good.
    LockLost(Error),
}

/// Whether accepted writes still wait for company.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Linger {
    /// Nothing waits, or the wait has not begun.
    No,
    Waiting,
    Over,
}

/// A flush, or a write with FUA, that waits until the log is durable.
struct Waiter {
    /// Pending operations that it covers, counted as the overlay counts them.
    operations: u64,
    /// Once they are cut: the last record that must be durable.
    sequence: Option<u64>,
    reply: Reply<()>,
}

/// A checkpoint on its way.
struct Checkpoint {
    /// `None` once it is being stored.
    prepared: Option<Prepared>,
    head: Head,
    /// The volume's, in bytes, when it was cut.
    size: u64,
    replies: Vec<Reply<()>>,
    /// To be taken of it.
    snapshots: Vec<asks::Wanted>,
}

/// What an opened volume starts from.
pub(crate) struct Start {
    pub(crate) identity: Identity,
    pub(crate) map: Map,
    pub(crate) head: Head,
    /// Whether the map holds more than the head's checkpoint.
    pub(crate) uncovered: bool,
    /// The open end of the log that a recovery found, to be written anew before anything else.
    pub(crate) tail: Option<Tail>,
    pub(crate) allotment: Allotment,
    pub(crate) inodes: Vec<INodeIndex>,
    pub(crate) size: Size,
    /// The volume as the metadata had it when it was locked.
    pub(crate) metadata: Metadata,
    pub(crate) groups: Groups,
}

/// The owner of an open volume.
pub(crate) struct Writer {
    context: Context,
    options: Options,
    identity: Identity,
    log: Log,
    map: Map,
    overlay: Overlay,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    /// Writes that wait for room or for the edges of one before them.
    waiting: VecDeque<Request>,
    reading_edges: bool,
    /// A write whose edges' part of the map is being read.
    edge_waiting: Option<edge::Unaligned>,
    waiters: Vec<Waiter>,
    linger: Linger,
    mending: bool,
    /// What is to be mended once the window on its way has been committed.
    mend_waiting: Option<(Vec<BlockContent>, WindowPlan)>,
    /// The index behind all committed windows.
    window_end: BlockIndex,
    window_asked: bool,
    inodes: VecDeque<INodeIndex>,
    inodes_asked: bool,
    head: Head,
    checkpoint: Option<Checkpoint>,
    checkpoint_wanted: Vec<Reply<()>>,
    /// Operations that the next checkpoint must hold, as the overlay counts them.
    checkpoint_from: u64,
    /// Nothing is cut until the map has what the next checkpoint needs.
    is_quiet: bool,
    /// Bytes of log that the last checkpoint covers.
    checkpointed: u64,
    /// Whether recovery found more than the head's checkpoint holds, and none was begun since.
    uncovered: bool,
    /// A checkpoint is due although little was written: the log is old, or a peer was lost.
    checkpoint_due: bool,
    /// Looks since the last checkpoint.
    ticks: u32,
    size: Size,
    groups: Groups,
    /// Requests that wait for a part of the map.
    parked: Vec<Request>,
    /// The map takes more memory than it should, until a checkpoint is stored.
    is_crammed: bool,
    asks: asks::Asks,
    collector: collect::Collector,
    reclaimer: reclaim::Reclaimer,
    resize: Option<resize::Shrink>,
    /// When the size was last committed here: what is older says nothing of it.
    resized_at: Revision,
    /// Bytes that the peers had room for when they were last asked.
    last_room: u64,
    asked_for_space: Option<Instant>,
    waiting_since: Option<Instant>,
    looking_for_space: bool,
    failed: Option<Error>,
    closing: Option<Reply<()>>,
}

impl Writer {
    pub(crate) fn new(
        context: Context,
        options: Options,
        start: Start,
        lock_lost: oneshot::Receiver<Error>,
    ) -> Self {
        let events: FuturesUnordered<BoxFuture<'static, Event>> = FuturesUnordered::new();
        events.push(Box::pin(async move {
            match lock_lost.await {
                Ok(error) => Event::LockLost(error),
                // The session ends with the writer, never before it.
                Err(_) => std::future::pending().await,
            }
        }));
        let window_end = start.allotment.end();
        let mut overlay = Overlay::default();
        start.tail.iter().for_each(|tail| tail.replay(&mut overlay));
        let mut log = Log::new(start.identity, options.cache_bytes);
        log.allot(start.allotment);
        Self {
            context,
            identity: start.identity,
            log,
            map: start.map,
            checkpoint_from: overlay.queued(),
            overlay,
            events,
            waiting: VecDeque::new(),
            reading_edges: false,
            edge_waiting: None,
            waiters: Vec::new(),
            linger: Linger::No,
            mending: false,
            mend_waiting: None,
            window_end,
            window_asked: false,
            inodes: start.inodes.into(),
            inodes_asked: false,
            head: start.head,
            checkpoint: None,
            checkpoint_wanted: Vec::new(),
            is_quiet: false,
            checkpointed: 0,
            uncovered: start.uncovered,
            checkpoint_due: false,
            ticks: 0,
            size: start.size,
            groups: start.groups,
            parked: Vec::new(),
            is_crammed: false,
            asks: asks::Asks::default(),
            collector: collect::Collector::default(),
            reclaimer: reclaim::Reclaimer::new(&start.metadata),
            resize: None,
            resized_at: Revision::default(),
            last_room: u64::MAX,
            asked_for_space: None,
            waiting_since: None,
            looking_for_space: false,
            failed: None,
            closing: None,
            options,
        }
    }

    /// Serves requests until the volume is closed; a dropped channel closes it too.
    pub(crate) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut changes: watch::Receiver<Option<Seen>>,
    ) {
        let mut batch = Vec::new();
        let (mut open, mut is_followed) = (true, true);
        let mut tick = tokio::time::interval(TICK);
        tick.tick().await;
        loop {
            // Events always hold at least the wait for the lock. What comes seldom goes first, or it
            // might never come while clients are busy.
            tokio::select! {
                biased;
                _ = tick.tick() => self.tick(),
                changed = changes.changed(), if is_followed => {
                    is_followed = changed.is_ok();
                    let changed = changes.borrow_and_update().clone();
                    changed.into_iter().for_each(|seen| self.metadata_changed(seen));
                }
                Some(event) = self.events.next() => self.handle(event),
                count = requests.recv_many(&mut batch, 128), if open => {
                    open = count > 0;
                    self.collector.note_requests();
                    batch.drain(..).for_each(|request| self.request(request));
                    if !open && self.closing.is_none() {
                        let (reply, _) = oneshot::channel();
                        self.close(reply);
                    }
                }
            }
            self.pump();
            if let Some(reply) = self.closed() {
                let result = match self.failed.take() {
                    Some(error) => Err(error),
                    None => {
                        let is_clean = self.reclaimer.is_clean();
                        self.context.release(&self.head, self.window_end, is_clean).await
                    }
                };
                // The closer may have gone away; the volume is closed all the same.
                let _ = reply.send(result);
                return;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Appended { index, end, sync, result } => match result {
                Ok(()) => self.log.acknowledged(index, end, sync),
                Err(cut_off) => self.cut_off(index, cut_off),
            },
            Event::Sealed { index, result } => match result {
                Ok(()) => self.log.sealed(index),
                Err(cut_off) => self.cut_off(index, cut_off),
            },
            Event::Window(result) => self.window_opened(result),
            Event::Mended { sealed, result } => {
                self.mending = false;
                // The sooner the head passes the windows that name the lost peer, the sooner a
                // recovery can do without it.
                self.checkpoint_due = true;
                if result.is_ok() {
                    sealed.into_iter().for_each(|index| self.log.sealed(index));
                }
                self.allot(result);
            }
            Event::INodes(result) => {
                self.inodes_asked = false;
                match result {
                    Ok(inodes) => self.inodes.extend(inodes),
                    Err(error) => self.fail(error),
                }
            }
            Event::Stored(result) => self.stored(result),
            Event::Arrived { name, bytes } => self.arrived(name, bytes),
            Event::Collected(victim) => self.collected(victim),
            Event::Reclaimed(step) => self.reclaimed(step),
            Event::Gathered { ask, result } => self.gathered(ask, result),
            Event::Resized { size, result } => self.resized(size, result),
            Event::Flattened(result) => self.flattened(result),
            Event::Told => {}
            Event::LookForSpace => self.looking_for_space = false,
            Event::Lingered => self.linger = Linger::Over,
            Event::Edges { write, pages } => self.edges_read(write, pages),
            Event::LockLost(error) => self.fail(error),
        }
    }

    /// Sends what may be sent, answers what is durable, and starts what is due in the background.
    fn pump(&mut self) {
        self.admit_waiting();
        if self.failed.is_some() {
            return;
        }
        if self.may_cut() {
            let sync = self.waiters.iter().any(|waiter| waiter.sequence.is_none());
            if sync || self.has_gathered() {
                self.cut(sync);
            }
            self.note_cut();
        }
        self.keep_lingering();
        self.answer_waiters();
        self.keep_windows_ahead();
        self.keep_shrinking();
        self.keep_flattening();
        self.keep_checkpoints_coming();
        self.keep_collecting();
        self.keep_reclaiming();
        self.start_loads();
    }

    /// Whether the log takes records now.
    fn may_cut(&self) -> bool {
        !self.mending && !self.is_quiet && self.log.open_blocks() <= MAX_OPEN_BLOCKS
    }

    /// Whether enough waits to be sent, or has waited long enough.
    fn has_gathered(&self) -> bool {
        let enough = self.log.unacknowledged().min(self.identity.block_size as usize).max(GATHER);
        let is_due = self.linger == Linger::Over || self.overlay.bytes() >= enough;
        // What waits for the buffer waits for this.
        (is_due || !self.waiting.is_empty()) && self.log.unacknowledged() < IN_FLIGHT
    }

    fn keep_lingering(&mut self) {
        if self.overlay.is_empty() {
            if self.linger == Linger::Over {
                self.linger = Linger::No;
            }
        } else if self.linger == Linger::No {
            self.linger = Linger::Waiting;
            self.push_event(async {
                tokio::time::sleep(LINGER).await;
                Event::Lingered
            });
        }
    }

    fn cut(&mut self, sync: bool) {
        let sends = self.log.cut(&mut self.overlay, &mut self.map, sync);
        sends.into_iter().for_each(|send| self.send(send));
    }

    fn send(&self, send: Send) {
        let pool: &dyn BlockPool = &*self.context.pool;
        self.events.push(match send {
            Send::Append { peers, append, end } => {
                let (index, sync) = (append.block.index, append.sync);
                let done = pool.append(peers, append);
                Box::pin(async move { Event::Appended { index, end, sync, result: done.await } })
            }
            Send::Seal { peers, block, seal } => {
                let done = pool.seal(peers, block, self.identity.epoch, seal);
                Box::pin(async move { Event::Sealed { index: block.index, result: done.await } })
            }
        });
    }

    /// A sync was asked for all that has been cut: what is cut whole now waits for it.
    fn note_cut(&mut self) {
        let (cut, sequence) = (self.overlay.taken(), self.log.sequence());
        for waiter in &mut self.waiters {
            if waiter.sequence.is_none() && waiter.operations <= cut {
                waiter.sequence = Some(sequence);
            }
        }
    }

    fn answer_waiters(&mut self) {
        let durable = self.log.durable();
        let is_durable = |waiter: &mut Waiter| waiter.sequence.is_some_and(|at| at <= durable);
        for waiter in self.waiters.extract_if(.., is_durable) {
            // Whoever asked may have gone away.
            let _ = waiter.reply.send(Ok(()));
        }
    }

    fn allot(&mut self, result: Result<Allotment, Error>) {
        match result {
            Ok(allotment) => {
                self.window_end = allotment.end();
                self.log.allot(allotment);
            }
            Err(error) => self.fail(error),
        }
    }

    /// Nothing more can be written: everything that waits is told so.
    fn fail(&mut self, error: Error) {
        tracing::error!(volume = %self.identity.volume, %error, "the volume failed");
        for waiter in self.waiters.drain(..) {
            let _ = waiter.reply.send(Err(error.clone()));
        }
        let replies = std::mem::take(&mut self.checkpoint_wanted);
        let checkpoint = self.checkpoint.take();
        let (begun, snapshots) =
            checkpoint.map(|it| (it.replies, it.snapshots)).unwrap_or_default();
        for reply in replies.into_iter().chain(begun) {
            let _ = reply.send(Err(error.clone()));
        }
        for snapshot in snapshots {
            snapshot.fail(&error);
        }
        self.fail_resize(&error);
        self.asks.fail(&error);
        self.reclaimer.fail(&error);
        self.failed.get_or_insert(error);
        // Whatever waits for the map is told the same.
        self.retry_parked();
    }
}
