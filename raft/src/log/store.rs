//! openraft's log storage on [`Database`], [`Tail`] and [`Writer`].

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, alias};
use prost::Message;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::database::{COMMITTED, Database, PURGED, VOTE};
use super::tail::Tail;
use super::writer::{Health, Op, Sink, Writer};
use crate::config::{APPEND_SIZE_MAX, Entry, LogId, TypeConfig, Vote};
use crate::error::Error;
use crate::storage::{Blocking, Change, Pace};
use crate::wire::{self, proto, required};

/// Bytes of entries that stay in memory after they are on disk.
const TAIL_SIZE: usize = 2 << 20;
/// For how long what is committed may not be written down while no entry follows.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// The log of one node; clones share it.
#[derive(Clone)]
pub(crate) struct LogStore(Arc<Shared>);

struct Shared {
    database: Arc<Database>,
    state: Arc<Mutex<State>>,
    writer: Writer,
    blocking: Blocking,
}

/// What the log contains once all queued writes are done.
struct State {
    tail: Tail,
    /// Index of the first entry; meaningless while `last` is not behind `purged`.
    first: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// It has not been given to the writer: that would be a write of its own for each entry, and wake a
    /// thread for it.
    committed_is_news: bool,
}

impl State {
    fn load(database: &Database) -> io::Result<Self> {
        database.with(|open| {
            let log_id = |key| -> io::Result<Option<LogId>> {
                let Some(bytes) = open.value(key)? else { return Ok(None) };
                let id: proto::LogId = wire::decode(bytes.as_slice())?;
                Ok(Some(id.into()))
            };
            let vote = match open.value(VOTE)? {
                None => None,
                Some(bytes) => Some(wire::decode::<proto::Vote>(bytes.as_slice())?.into()),
            };
            let purged = log_id(PURGED)?;
            let next = purged.map_or(0, |id| id.index + 1);
            let first = open.entries(next)?.next().transpose()?.map_or(next, |(index, _)| index);
            let last = match open.last_entry()? {
                Some((index, entry)) if index >= next => {
                    let entry: proto::Entry = wire::decode(entry.as_slice())?;
                    Some(required(entry.id, "id")?.into())
                }
                _ => purged,
            };
            let end = last.map_or(0, |id| id.index + 1);
            let tail = Tail::new(end, TAIL_SIZE);
            let committed = log_id(COMMITTED)?;
            Ok(Self { tail, first, last, purged, vote, committed, committed_is_news: false })
        })
    }

    fn next(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }
}

impl LogStore {
    /// Reads what `database` holds and starts the writer, at a simulated pace if there is one.
    pub(crate) fn open(
        database: Arc<Database>,
        pace: Option<Arc<dyn Pace>>,
    ) -> Result<Self, Error> {
        let state = State::load(&database).map_err(|source| database.unreadable(source))?;
        let state = Arc::new(Mutex::new(state));
        let sink = Batches { database: database.clone(), state: state.clone() };
        let blocking = if pace.is_some() { Blocking::Inline } else { Blocking::Threads };
        let writer = match pace {
            None => Writer::start(sink).map_err(|source| database.unreadable(source))?,
            Some(pace) => Writer::simulate(sink, pace),
        };
        Ok(Self(Arc::new(Shared { database, state, writer, blocking })))
    }

    pub(crate) fn health(&self) -> Arc<Health> {
        self.0.writer.health().clone()
    }

    /// The last entry that was purged.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.state().purged
    }

    /// Whether the log has never held an entry or a vote.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state();
        state.last.is_none() && state.vote.is_none()
    }

    /// Writes down what is committed, if no entry has taken that along; without a sync.
    pub(crate) fn note_committed(&self) -> io::Result<()> {
        let value = {
            let mut state = self.state();
            if !std::mem::take(&mut state.committed_is_news) {
                return Ok(());
            }
            state.committed.map(encode_id)
        };
        self.0.writer.submit(Op::Committed { value })
    }

    /// [Does so](Self::note_committed) now and then, until the log takes no more.
    pub(crate) fn keep_noting(&self) -> JoinHandle<()> {
        let this = self.clone();
        tokio::spawn(async move {
            while this.note_committed().is_ok() {
                tokio::time::sleep(NOTE_EVERY).await;
            }
        })
    }

    /// Writes what is queued and closes the files.
    pub(crate) fn close(&self) {
        if let Err(error) = self.note_committed() {
            tracing::debug!(%error, "what is committed is not written down");
        }
        self.0.writer.stop();
        self.0.database.close();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads `start..end`, in memory if possible, and stops at `size_max` bytes but not before
    /// the first entry.
    async fn read(&self, start: u64, end: u64, size_max: usize) -> io::Result<Vec<Entry>> {
        let in_memory = {
            let state = self.state();
            let start = start.max(state.first);
            (start >= state.tail.first()).then(|| {
                let mut taken = Vec::new();
                take(state.tail.from(start), end, size_max, &mut taken);
                taken
            })
        };
        if let Some(entries) = in_memory {
            return Ok(entries);
        }
        let this = self.clone();
        let read = move || this.read_from_disk(start, end, size_max);
        self.0.blocking.run(read).await.map_err(io::Error::other)?
    }

    fn read_from_disk(&self, start: u64, end: u64, size_max: usize) -> io::Result<Vec<Entry>> {
        self.0.database.with(|open| {
            // The iterator sees the database as it is now. Under the lock, all below the tail is
            // on disk, and a queued truncation or purge does not reach into `start..middle`.
            let (items, start, middle, tail) = {
                let state = self.state();
                let start = start.max(state.first);
                let end = end.min(state.next());
                let middle = end.min(state.tail.first());
                let tail: Vec<(Entry, usize)> = state
                    .tail
                    .from(start.max(state.tail.first()))
                    .take_while(|(entry, _)| entry.log_id.index < end)
                    .map(|(entry, size)| (entry.clone(), size))
                    .collect();
                (open.entries(start)?, start, middle, tail)
            };
            let mut entries = Vec::new();
            let mut size = 0;
            for (index, item) in (start..middle).zip(items) {
                let (found, value) = item?;
                if found != index {
                    let text = format!("log entry {index} is missing, the next one is {found}");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                size += value.len();
                if size > size_max && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(wire::entry(wire::decode(bytes::Bytes::from(value))?)?);
            }
            let expected = usize::try_from(middle.saturating_sub(start)).unwrap_or(usize::MAX);
            if entries.len() != expected {
                let text = format!("the log ends before entry {middle}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            for (entry, more) in tail {
                size += more;
                if size > size_max && !entries.is_empty() {
                    break;
                }
                entries.push(entry);
            }
            Ok(entries)
        })
    }
}

/// Copies entries below `end`, up to `size_max` bytes but at least one.
fn take<'a>(
    entries: impl Iterator<Item = (&'a Entry, usize)>,
    end: u64,
    size_max: usize,
    into: &mut Vec<Entry>,
) {
    let mut total = 0;
    for (entry, size) in entries {
        total += size;
        if entry.log_id.index >= end || (total > size_max && !into.is_empty()) {
            return;
        }
        into.push(entry.clone());
    }
}

/// Writes batches to the database.
struct Batches {
    database: Arc<Database>,
    state: Arc<Mutex<State>>,
}

impl Sink for Batches {
    fn write(&mut self, ops: &[Op], sync: bool) -> io::Result<()> {
        let mut batch = Vec::new();
        for op in ops {
            match op {
                Op::Append { entries, .. } => {
                    for (index, value) in entries {
                        batch.push(Change::PutEntry { index: *index, value });
                    }
                }
                Op::Vote { value, .. } => batch.push(Change::PutValue { name: VOTE, value }),
                Op::Truncate { from, last, .. } => {
                    batch.push(Change::RemoveEntries { from: *from, last: *last });
                }
                Op::Purge { from, last, value } => {
                    if from <= last {
                        batch.push(Change::RemoveEntries { from: *from, last: *last });
                    }
                    batch.push(Change::PutValue { name: PURGED, value });
                }
                Op::Committed { value: Some(value) } => {
                    batch.push(Change::PutValue { name: COMMITTED, value });
                }
                Op::Committed { value: None } => {
                    batch.push(Change::RemoveValue { name: COMMITTED });
                }
            }
        }
        self.database.with(|open| open.write(&batch, sync))
    }

    fn written(&mut self, sequence: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tail.written(sequence);
    }
}

fn encode_id(id: LogId) -> Vec<u8> {
    proto::LogId::from(id).encode_to_vec()
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, APPEND_SIZE_MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<alias::VoteOf<TypeConfig>>> {
        Ok(self.state().vote)
    }

    /// Reads in pieces: a node that catches up applies a long range at once.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut start, end) = bounds(&range);
        let this = self.clone();
        async_stream::try_stream! {
            while start < end {
                let entries = this.read(start, end, APPEND_SIZE_MAX).await?;
                let Some(last) = entries.last() else { break };
                start = last.log_id.index + 1;
                for entry in entries {
                    yield entry;
                }
            }
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let value = proto::Vote::from(*vote).encode_to_vec();
        self.0.writer.submit(Op::Vote { value, done })?;
        answer.await.map_err(io::Error::other)??;
        self.state().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut state = self.state();
        state.committed = committed;
        state.committed_is_news = true;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        let mut sized = Vec::new();
        for entry in entries {
            let value = proto::Entry::from(&entry).encode_to_vec();
            sized.push((entry.clone(), value.len()));
            encoded.push((entry.log_id.index, value));
        }
        let sequence = {
            let mut state = self.state();
            if let Some((first, _)) = sized.first() {
                if state.last.is_none() {
                    state.first = first.log_id.index;
                } else if first.log_id.index != state.next() {
                    let text = format!("append at {} to {:?}", first.log_id.index, state.last);
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
            }
            if let Some((last, _)) = sized.last() {
                state.last = Some(last.log_id);
            }
            state.tail.append(sized)
        };
        self.note_committed()?;
        self.0.writer.submit(Op::Append { entries: encoded, sequence, done: callback })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let op = {
            let mut state = self.state();
            let from = last.map_or(0, |id| id.index + 1);
            let Some(end) = state.next().checked_sub(1).filter(|end| *end >= from) else {
                return Ok(());
            };
            state.tail.truncate(from);
            state.last = last.max(state.purged);
            Op::Truncate { from, last: end, done }
        };
        self.0.writer.submit(op)?;
        // Durable before the snapshot that may be installed next: a restart that found the new
        // snapshot and the old entries would take the log for damaged.
        answer.await.map_err(io::Error::other)?
    }

    async fn purge(&mut self, id: LogId) -> io::Result<()> {
        let op = {
            let mut state = self.state();
            if state.purged.is_some_and(|purged| purged.index >= id.index) {
                return Ok(());
            }
            // Only `(purged, id]`: range deletions that overlap make later scans slow.
            let from = state.purged.map_or(0, |purged| purged.index + 1);
            state.purged = Some(id);
            if state.next() <= id.index {
                state.last = Some(id);
            }
            state.first = state.first.max(id.index + 1);
            state.tail.purge(id.index + 1);
            Op::Purge { from, last: id.index, value: encode_id(id) }
        };
        self.0.writer.submit(op)
    }
}
