//! What a volume may hold: every write that was accepted, in order, and what of it must survive.
//!
//! A volume's past is a row of *lives*, one for each opener that got as far as reading it. A life
//! begins with what it found and adds *effects*: each fills sectors of one page with a value, and is
//! there whole or not at all. When the next life begins, it must find the former one's beginning and
//! a prefix of its effects that contains every flushed one. That prefix is then the past for good: a
//! flush of the former life that is answered later must not reach beyond it. Where a snapshot was
//! restored in between, the next life finds just that; where that was broken off, the one or the
//! other, and never a mix.

mod snapshot;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use torus_blockstore::Epoch;

use super::node::lock;
pub(crate) use snapshot::Snapshot;

/// Bytes that have a value of their own.
pub(crate) const SECTOR: u64 = 512;
/// Sectors of a page.
const PAGE_SECTORS: u64 = 8;
/// Bits of a sector's content that say which sector it is.
const INDEX_BITS: u32 = 20;

/// Part of a write: sectors of one page.
#[derive(Clone, Copy, Debug)]
struct Effect {
    first: u64,
    end: u64,
    value: u64,
    /// When it was sent, by the clock.
    issued: u64,
    /// It was refused, so it never happens.
    is_void: bool,
}

/// What one opener did.
pub(crate) struct Life {
    pub(crate) number: u64,
    base: Vec<u64>,
    effects: Vec<Effect>,
    /// Effects that were accepted: all before were, or are void.
    accepted: usize,
    /// When each of these was known to be, by the clock.
    accepted_at: Vec<u64>,
    /// The sectors after those.
    now: Vec<u64>,
    flushed: usize,
    /// What the next life found of it, if that is certain.
    kept: Option<usize>,
    /// Another life has begun since.
    is_over: bool,
    origin: Origin,
    /// Under which its writer has the volume, if that is certain.
    pub(crate) epoch: Option<Epoch>,
    clock: Clock,
    next_value: Arc<Mutex<u64>>,
}

/// Counts requests and answers: what came before what, on all volumes.
pub(crate) type Clock = Arc<AtomicU64>;

/// What explains the beginning of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The former life alone.
    Former,
    /// A snapshot that was restored.
    Restored,
    /// A snapshot, though nobody heard that it was restored.
    RestoredUnheard,
    /// The former life: a restore was broken off before it took effect.
    NotRestored,
    /// A restore was broken off, and it would be the same with it and without.
    Either,
}

/// Effects of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    first: usize,
    pub(crate) end: usize,
}

/// A read that was begun.
pub(crate) struct Reading {
    first: u64,
    expected: Vec<u64>,
    accepted: usize,
}

/// A volume's past.
pub(crate) struct History {
    sectors: u64,
    lives: Mutex<Vec<Arc<Mutex<Life>>>>,
    snapshots: Mutex<Vec<Snapshot>>,
    restores: Mutex<Restores>,
    doom: Mutex<Doom>,
    clock: Clock,
    next_value: Arc<Mutex<u64>>,
}

/// The restores since the last life.
#[derive(Default)]
struct Restores {
    /// What the volume may have become since: at most one of these.
    snapshots: Vec<Snapshot>,
    /// It has become one of them.
    is_certain: bool,
}

/// What is known of deletions of the volume.
#[derive(Default)]
struct Doom {
    /// One is under way, or has been done.
    is_deleting: bool,
    /// Those that nobody waits for any more come before then.
    loose_until: Option<Instant>,
}

impl History {
    /// That of a new volume.
    pub(crate) fn new(sectors: u64) -> Self {
        let next_value = Arc::new(Mutex::new(0));
        let base = vec![0; usize::try_from(sectors).unwrap_or(0)];
        let origin = Life::new(0, base, Arc::clone(&next_value));
        let (snapshots, restores, doom, clock) = Default::default();
        Self {
            sectors,
            lives: Mutex::new(vec![origin]),
            snapshots,
            restores,
            doom,
            clock,
            next_value,
        }
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// A new life has read the whole volume; an error if neither a prefix of the last one nor a
    /// restored snapshot explains it.
    pub(crate) fn begin(&self, found: Vec<u64>) -> Result<Arc<Mutex<Life>>, String> {
        let mut lives = lock(&self.lives);
        let Some(last) = lives.last() else { return Err("there is no past".to_owned()) };
        let origin = self.explain(last, &found)?;
        lock(last).is_over = true;
        let life = Life::new(lives.len() as u64, found, Arc::clone(&self.next_value));
        lock(&life).origin = origin;
        lock(&life).clock = Arc::clone(&self.clock);
        lock(&life).is_over = self.is_doomed();
        lives.push(Arc::clone(&life));
        Ok(life)
    }

    fn explain(&self, last: &Mutex<Life>, found: &[u64]) -> Result<Origin, String> {
        let restores = std::mem::take(&mut *lock(&self.restores));
        let fitting: Vec<_> = restores.snapshots.iter().filter(|it| it.can_be(found)).collect();
        if restores.is_certain && fitting.is_empty() {
            return Err("the volume is not what was restored".to_owned());
        }
        let kept = lock(last).kept_in(found);
        let is_former = !restores.is_certain && kept.is_ok();
        match (&fitting[..], is_former) {
            ([], _) => {
                lock(last).kept = Some(kept?);
                let is_spared = !restores.snapshots.is_empty();
                Ok(if is_spared { Origin::NotRestored } else { Origin::Former })
            }
            // Nothing is learnt from what may be chance.
            (_, true) => Ok(Origin::Either),
            (fitting, false) => {
                if let [only] = fitting {
                    only.check(found.to_vec())?;
                }
                let is_heard = restores.is_certain;
                Ok(if is_heard { Origin::Restored } else { Origin::RestoredUnheard })
            }
        }
    }

    /// Whoever still uses the volume somewhere is about to be shut out.
    fn end_last(&self) {
        if let Some(last) = lock(&self.lives).last() {
            lock(last).is_over = true;
        }
    }

    /// A snapshot is about to be restored.
    pub(crate) fn restoring(&self, snapshot: &Snapshot) {
        self.end_last();
        lock(&self.restores).snapshots.push(snapshot.clone());
    }

    /// What was about to be restored was.
    pub(crate) fn restored(&self) {
        let mut restores = lock(&self.restores);
        let former = restores.snapshots.len().saturating_sub(1);
        restores.snapshots.drain(..former);
        restores.is_certain = true;
    }

    /// What was about to be restored was not, and never will be.
    pub(crate) fn not_restored(&self) {
        lock(&self.restores).snapshots.pop();
    }

    /// The volume is about to be deleted, or is gone.
    pub(crate) fn deleting(&self) {
        self.end_last();
        lock(&self.doom).is_deleting = true;
    }

    /// It is known that it was not deleted.
    pub(crate) fn not_deleted(&self) {
        lock(&self.doom).is_deleting = false;
    }

    /// Nobody waits for the deletion, which may come within this time.
    pub(crate) fn deletion_is_loose(&self, time: Duration) {
        *lock(&self.doom) = Doom { is_deleting: false, loose_until: Some(Instant::now() + time) };
    }

    /// Whether the volume may vanish at any moment.
    pub(crate) fn is_doomed(&self) -> bool {
        let doom = lock(&self.doom);
        doom.is_deleting || doom.loose_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether the volume may have vanished.
    pub(crate) fn may_be_gone(&self) -> bool {
        let doom = lock(&self.doom);
        doom.is_deleting || doom.loose_until.is_some()
    }

    /// There is a new volume in place of the one that was deleted. Values go on, so that what was in
    /// that one is known if it comes back.
    pub(crate) fn start_over(&self) {
        self.end_last();
        let base = vec![0; index(self.sectors)];
        *lock(&self.lives) = vec![Life::new(0, base, Arc::clone(&self.next_value))];
        *lock(&self.restores) = Restores::default();
        lock(&self.snapshots).clear();
        let mut doom = lock(&self.doom);
        doom.is_deleting = false;
        // A command that is still under way names the new one too.
        doom.loose_until.take_if(|until| *until <= Instant::now());
    }

    /// That of a clone of what was found somewhere.
    pub(crate) fn of_clone(found: Vec<u64>) -> Self {
        let history = Self::new(found.len() as u64);
        // No other volume writes these values: a clone's own begin far behind.
        *lock(&history.next_value) = 1 << 30;
        let origin = Life::new(0, found, Arc::clone(&history.next_value));
        *lock(&history.lives) = vec![origin];
        history
    }

    /// Takes times from a clock that others share.
    pub(crate) fn timed_by(mut self, clock: &Clock) -> Self {
        self.clock = Arc::clone(clock);
        self
    }

    pub(crate) fn last(&self) -> Option<Arc<Mutex<Life>>> {
        lock(&self.lives).last().cloned()
    }

    /// Notes a snapshot, unless it is of a volume that was deleted.
    pub(crate) fn taken(&self, snapshot: Snapshot) {
        if lock(&self.lives).iter().any(|life| snapshot.is_of(life)) {
            lock(&self.snapshots).push(snapshot);
        }
    }

    /// Whether the snapshot is one that must be there.
    pub(crate) fn has(&self, snapshot: &Snapshot) -> bool {
        let is_known = lock(&self.snapshots).iter().any(|known| known.name == snapshot.name);
        is_known && !self.may_be_gone()
    }

    pub(crate) fn snapshots(&self) -> MutexGuard<'_, Vec<Snapshot>> {
        lock(&self.snapshots)
    }

    /// How many effects there were, and how many of them were lost by right.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let lives = lock(&self.lives);
        let (mut all, mut lost) = (0, 0);
        for life in lives.iter() {
            let life = lock(life);
            all += life.effects.len() as u64;
            lost += life.kept.map_or(0, |kept| (life.effects.len() - kept) as u64);
        }
        (all, lost)
    }
}

impl Life {
    fn new(number: u64, base: Vec<u64>, next_value: Arc<Mutex<u64>>) -> Arc<Mutex<Self>> {
        let now = base.clone();
        Arc::new(Mutex::new(Self {
            number,
            base,
            effects: Vec::new(),
            accepted: 0,
            accepted_at: Vec::new(),
            now,
            flushed: 0,
            kept: None,
            is_over: false,
            origin: Origin::Former,
            epoch: None,
            clock: Clock::default(),
            next_value,
        }))
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// A value that nothing else writes.
    pub(crate) fn fresh_value(&self) -> u64 {
        let mut next = lock(&self.next_value);
        *next += 1;
        *next
    }

    /// Notes a request that fills sectors `first..end`, before it is sent.
    pub(crate) fn issue(&mut self, first: u64, end: u64, value: u64) -> Span {
        let start = self.effects.len();
        let issued = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut at = first;
        while at < end {
            let next = (at / PAGE_SECTORS * PAGE_SECTORS + PAGE_SECTORS).min(end);
            self.effects.push(Effect { first: at, end: next, value, issued, is_void: false });
            at = next;
        }
        Span { first: start, end: self.effects.len() }
    }

    /// The request was accepted, and all before it.
    pub(crate) fn accept(&mut self, span: Span) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        while self.accepted < span.end {
            self.accepted_at.push(now);
            let effect = self.effects[self.accepted];
            apply(&mut self.now, &effect);
            self.accepted += 1;
        }
    }

    /// The request was refused.
    pub(crate) fn refuse(&mut self, span: Span) {
        for effect in &mut self.effects[span.first..span.end] {
            effect.is_void = true;
        }
    }

    /// Whether another life of the volume has begun since: this one may meet any error.
    pub(crate) fn is_deposed(&self) -> bool {
        self.is_over
    }

    /// What a flush that begins now must make durable.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted
    }

    /// The first `count` effects are said to be durable; an error if a later life has not found them.
    pub(crate) fn flushed(&mut self, count: usize) -> Result<(), String> {
        self.flushed = self.flushed.max(count);
        match self.kept {
            Some(kept) if kept < count => Err(format!(
                "life {} was told that {count} effects are durable, its successor found {kept}",
                self.number
            )),
            _ => Ok(()),
        }
    }

    /// Begins a read of sectors `first..end`.
    pub(crate) fn begin_read(&self, first: u64, end: u64) -> Reading {
        let expected = self.now[index(first)..index(end)].to_vec();
        Reading { first, expected, accepted: self.accepted }
    }

    /// Holds what a read gave against what was written before, and meanwhile.
    pub(crate) fn end_read(&self, reading: &Reading, found: &[u64]) -> Result<(), String> {
        let meanwhile = &self.effects[reading.accepted..];
        for (at, (&found, &expected)) in found.iter().zip(&reading.expected).enumerate() {
            let sector = reading.first + at as u64;
            let is_new = |effect: &Effect| {
                (effect.first..effect.end).contains(&sector) && effect.value == found
            };
            if found != expected && !meanwhile.iter().any(is_new) {
                return Err(format!(
                    "life {}: sector {sector} reads as value {found}, it was written as {expected}",
                    self.number
                ));
            }
        }
        Ok(())
    }

    /// Whether the volume held `found` after a number of effects that is in the range, or at its end.
    fn was(&self, counts: Range<usize>, found: &[u64]) -> bool {
        let mut state = self.base.clone();
        self.effects[..counts.start].iter().for_each(|effect| apply(&mut state, effect));
        if state == found {
            return true;
        }
        self.effects[counts].iter().any(|effect| {
            apply(&mut state, effect);
            state == found
        })
    }

    /// How many effects the volume had when it held `found`: at least and at most, of those in the
    /// range and its end.
    fn counts(&self, counts: Range<usize>, found: &[u64]) -> Option<(usize, usize)> {
        let mut state = self.base.clone();
        self.effects[..counts.start].iter().for_each(|effect| apply(&mut state, effect));
        let mut fitting = (state == found).then_some((counts.start, counts.start));
        for count in counts {
            apply(&mut state, &self.effects[count]);
            if state == found {
                fitting = Some((fitting.map_or(count + 1, |(least, _)| least), count + 1));
            }
        }
        fitting
    }

    /// How many effects were known to be accepted at a time of the clock.
    fn accepted_before(&self, time: u64) -> usize {
        self.accepted_at.partition_point(|at| *at < time)
    }

    /// The length of the prefix that explains what the next life found.
    fn kept_in(&self, found: &[u64]) -> Result<usize, String> {
        let mut state = self.base.clone();
        for effect in &self.effects[..self.flushed] {
            apply(&mut state, effect);
        }
        let differs = |state: &[u64], sector: usize| state[sector] != found[sector];
        let mut wrong = (0..state.len()).filter(|&sector| differs(&state, sector)).count();
        let mut kept = (wrong == 0).then_some(self.flushed);
        let mut least = (wrong, self.flushed, first_wrong(&state, found));
        for count in self.flushed..self.effects.len() {
            let effect = self.effects[count];
            let sectors = index(effect.first)..index(effect.end);
            wrong -= sectors.clone().filter(|&sector| differs(&state, sector)).count();
            apply(&mut state, &effect);
            wrong += sectors.filter(|&sector| differs(&state, sector)).count();
            if wrong == 0 {
                kept = Some(count + 1);
            }
            if wrong < least.0 {
                least = (wrong, count + 1, first_wrong(&state, found));
            }
        }
        let (wrong, count, (sector, is, was)) = least;
        kept.ok_or_else(|| {
            format!(
                "no prefix of life {} explains the volume: {} of its {} effects were flushed; \
                 closest are the first {count} with {wrong} sectors wrong, sector {sector} holds \
                 value {is} instead of {was}",
                self.number,
                self.flushed,
                self.effects.len(),
            )
        })
    }
}

fn apply(state: &mut [u64], effect: &Effect) {
    if !effect.is_void {
        state[index(effect.first)..index(effect.end)].fill(effect.value);
    }
}

fn first_wrong(state: &[u64], found: &[u64]) -> (usize, u64, u64) {
    let at = (0..state.len()).find(|&sector| state[sector] != found[sector]).unwrap_or(0);
    (at, found[at], state[at])
}

fn index(sector: u64) -> usize {
    usize::try_from(sector).unwrap_or(usize::MAX)
}

/// The bytes of sectors `first..end` that hold `value`.
pub(crate) fn content(first: u64, end: u64, value: u64) -> Vec<u8> {
    let words = usize::try_from(SECTOR).unwrap_or(0) / size_of::<u64>();
    (first..end).flat_map(|sector| word(sector, value).to_le_bytes().repeat(words)).collect()
}

fn word(sector: u64, value: u64) -> u64 {
    if value == 0 { 0 } else { (value << INDEX_BITS) | sector }
}

/// The values of the sectors from `first` on; an error if one is torn or another's.
pub(crate) fn values(first: u64, bytes: &[u8]) -> Result<Vec<u64>, String> {
    let sectors = bytes.chunks(usize::try_from(SECTOR).unwrap_or(1)).zip(first..);
    sectors
        .map(|(bytes, sector)| {
            let start: [u8; 8] = bytes[..8].try_into().unwrap_or_default();
            let found = u64::from_le_bytes(start);
            if !bytes.chunks(8).all(|word| word == start) {
                return Err(format!("sector {sector} is torn"));
            }
            let value = found >> INDEX_BITS;
            if found != word(sector, value) {
                let other = found & ((1 << INDEX_BITS) - 1);
                return Err(format!("sector {sector} holds what was written to sector {other}"));
            }
            Ok(value)
        })
        .collect()
}

#[cfg(test)]
mod tests;
