//! The disk of a member's log: what was written and not synced goes with a crash, syncs take time,
//! and sometimes they fail.
//!
//! A crash leaves a prefix of the batches, with all that were synced: that is what RocksDB promises
//! of its write-ahead log. Snapshot files are real ones: they are synced before anybody hears of
//! them, and a crash here falls between two steps of a task, never into one.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use torus_metadata::{Change, Entries, Pace, Records, Storage};

use crate::chance::Chance;
use crate::mutation::Mutation;
use crate::world::World;

/// What the state of a disk does to writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// Every sync takes so many milliseconds, about.
    Slow(u64),
    /// Nothing is answered before this time.
    StuckUntil(Duration),
}

/// The disk of one member. It outlives the member's processes.
pub(crate) struct Disk {
    member: usize,
    chance: Chance,
    world: Weak<World>,
    state: Mutex<State>,
}

struct State {
    live: Image,
    durable: Image,
    /// Written and not synced, oldest first.
    pending: Vec<Vec<Owned>>,
    /// Counts the times that it was opened: an older handle is one of a dead process.
    opened: u64,
    exists: bool,
    /// A batch is on its way.
    busy: bool,
    mood: Mood,
    fail_next: bool,
    /// The votes that were written since the last crash, and how many of them were answered.
    votes: Vec<Vec<u8>>,
    votes_answered: usize,
}

#[derive(Clone, Default)]
struct Image {
    entries: BTreeMap<u64, Vec<u8>>,
    values: BTreeMap<String, Vec<u8>>,
}

/// A [`Change`] that owns its bytes.
#[derive(Clone)]
enum Owned {
    PutEntry(u64, Vec<u8>),
    RemoveEntries(u64, u64),
    PutValue(String, Vec<u8>),
    RemoveValue(String),
}

impl From<&Change<'_>> for Owned {
    fn from(change: &Change<'_>) -> Self {
        match *change {
            Change::PutEntry { index, value } => Self::PutEntry(index, value.to_vec()),
            Change::RemoveEntries { from, last } => Self::RemoveEntries(from, last),
            Change::PutValue { name, value } => Self::PutValue(name.to_owned(), value.to_vec()),
            Change::RemoveValue { name } => Self::RemoveValue(name.to_owned()),
        }
    }
}

impl Image {
    fn apply(&mut self, batch: &[Owned]) {
        for change in batch {
            match change {
                Owned::PutEntry(index, value) => {
                    self.entries.insert(*index, value.clone());
                }
                Owned::RemoveEntries(from, last) => {
                    self.entries.retain(|index, _| !(from..=last).contains(&index));
                }
                Owned::PutValue(name, value) => {
                    self.values.insert(name.clone(), value.clone());
                }
                Owned::RemoveValue(name) => {
                    self.values.remove(name);
                }
            }
        }
    }
}

impl Disk {
    /// An empty disk.
    pub(crate) fn new(world: Weak<World>, seed: u64, member: usize) -> Self {
        let state = State {
            live: Image::default(),
            durable: Image::default(),
            pending: Vec::new(),
            opened: 0,
            exists: false,
            busy: false,
            mood: Mood::Well,
            fail_next: false,
            votes: Vec::new(),
            votes_answered: 0,
        };
        let chance = Chance::new(seed, &format!("disk {member}"));
        Self { member, chance, world, state: Mutex::new(state) }
    }

    /// The machine loses its power: what was not synced may be lost.
    pub(crate) fn crash(&self) {
        let mut state = self.state();
        let kept = self.chance.within(0..state.pending.len() as u64 + 1);
        let kept = usize::try_from(kept).unwrap_or(0);
        let pending = std::mem::take(&mut state.pending);
        let lost = pending.len() - kept;
        if (lost > 0 || state.busy)
            && let Some(world) = self.world.upgrade()
        {
            world.trace.sometimes("a crash lost writes that were not synced");
        }
        for batch in &pending[..kept] {
            state.durable.apply(batch);
        }
        self.check_vote(&mut state);
        state.live = state.durable.clone();
        state.busy = false;
        state.fail_next = false;
        state.opened += 1;
    }

    /// A vote that was given is never forgotten, nor any behind it.
    fn check_vote(&self, state: &mut State) {
        let kept = state.durable.values.get("vote").cloned();
        let place = state.votes.iter().rposition(|vote| Some(vote) == kept.as_ref());
        let is_kept = place.map_or(0, |place| place + 1) >= state.votes_answered;
        if !is_kept && let Some(world) = self.world.upgrade() {
            world.trace.violation(&format!("m{} has forgotten a vote that it gave", self.member));
        }
        state.votes_answered = usize::from(kept.is_some());
        state.votes = kept.into_iter().collect();
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// The next write fails.
    pub(crate) fn fail_next(&self) {
        self.state().fail_next = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, opened: u64, batch: &[Change<'_>], sync: bool) -> io::Result<()> {
        let Some(world) = self.world.upgrade() else { return Err(io::Error::other("no world")) };
        let mut state = self.state();
        if state.opened != opened {
            return Err(io::Error::other("the process of this handle is dead"));
        }
        let last = state.live.entries.last_key_value().map(|(index, _)| *index);
        let mut votes = false;
        let mut written = Vec::new();
        for change in batch {
            match change {
                Change::PutValue { name: "vote", value } => {
                    votes = true;
                    written.push(value.to_vec());
                }
                // Entries are given up that never were here: their effects came as a snapshot.
                Change::RemoveEntries { last: end, .. } if last.is_none_or(|last| last < *end) => {
                    world.trace.sometimes("a snapshot was installed");
                }
                _ => {}
            }
        }
        if std::mem::take(&mut state.fail_next) {
            world.trace.note(&format!("m{}: a sync fails", self.member));
            world.trace.sometimes("a sync failed");
            return Err(io::Error::other("simulated error of the disk"));
        }
        let batch: Vec<Owned> = batch.iter().map(Owned::from).collect();
        state.live.apply(&batch);
        state.votes.append(&mut written);
        world.trace.note(&format!("m{}: writes {}, sync {sync}", self.member, batch.len()));
        state.pending.push(batch);
        if sync && !(votes && world.mutation == Some(Mutation::UnsyncedVote)) {
            for batch in std::mem::take(&mut state.pending) {
                state.durable.apply(&batch);
            }
        }
        if votes {
            world.vote_was_saved(self.member);
        }
        Ok(())
    }
}

/// A disk as the member sees it.
#[derive(Clone)]
pub(crate) struct SimStorage(pub(crate) Arc<Disk>);

impl fmt::Debug for SimStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the disk of m{}", self.0.member)
    }
}

type Opened<T> = Result<T, Box<dyn Error + Send + Sync>>;

impl Storage for SimStorage {
    fn open(&self, _: &Path) -> Opened<Box<dyn Records>> {
        let mut state = self.0.state();
        state.opened += 1;
        state.exists = true;
        let opened = state.opened;
        drop(state);
        Ok(Box::new(SimRecords { disk: Arc::clone(&self.0), opened }))
    }

    fn peek(&self, _: &Path) -> Opened<Option<Box<dyn Records>>> {
        let state = self.0.state();
        let (exists, opened) = (state.exists, state.opened);
        drop(state);
        let records = || SimRecords { disk: Arc::clone(&self.0), opened };
        Ok(exists.then(|| Box::new(records()) as Box<dyn Records>))
    }

    fn exists(&self, _: &Path) -> bool {
        self.0.state().exists
    }

    fn pace(&self) -> Option<Arc<dyn Pace>> {
        Some(Arc::new(self.clone()))
    }
}

impl Pace for SimStorage {
    fn before_write(&self, _: usize) -> BoxFuture<'static, ()> {
        let mut state = self.0.state();
        state.busy = true;
        let mut time = Duration::from_micros(self.0.chance.within(50..3000));
        match state.mood {
            Mood::Well => {}
            Mood::Slow(milliseconds) => {
                time += self.0.chance.millis(milliseconds / 2..milliseconds * 2);
            }
            Mood::StuckUntil(end) => {
                let now = self.0.world.upgrade().map_or(end, |world| world.trace.now());
                time += end.saturating_sub(now);
            }
        }
        tokio::time::sleep(time).boxed()
    }

    fn after_write(&self) -> BoxFuture<'static, ()> {
        let mut state = self.0.state();
        state.busy = false;
        state.votes_answered = state.votes.len();
        drop(state);
        tokio::time::sleep(Duration::from_micros(self.0.chance.within(10..1000))).boxed()
    }
}

/// The open log.
struct SimRecords {
    disk: Arc<Disk>,
    opened: u64,
}

impl Records for SimRecords {
    fn value(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.disk.state().live.values.get(name).cloned())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.state().live.values.keys().cloned().collect())
    }

    fn entries(&self, from: u64) -> io::Result<Entries<'_>> {
        let state = self.disk.state();
        let found: Vec<_> =
            state.live.entries.range(from..).map(|(i, v)| (*i, v.clone())).collect();
        Ok(Box::new(found.into_iter().map(Ok)))
    }

    fn last_entry(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        Ok(self.disk.state().live.entries.last_key_value().map(|(i, v)| (*i, v.clone())))
    }

    fn write(&self, batch: &[Change<'_>], sync: bool) -> io::Result<()> {
        self.disk.write(self.opened, batch, sync)
    }
}
