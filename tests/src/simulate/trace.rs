//! What happened in a run: a hash of every event with its time, counters of what is worth counting,
//! and the first violation.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The record of one run.
pub(crate) struct Trace {
    began: Instant,
    is_told: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hash: u64,
    events: u64,
    turns: u64,
    counters: BTreeMap<&'static str, u64>,
    violation: Option<String>,
}

/// More requests than any run has that gets on.
const TURNS_MAX: u64 = 3_000_000;

impl Trace {
    /// An empty record that begins now. If `is_told`, every event is printed.
    pub(crate) fn new(is_told: bool) -> Self {
        Self { began: Instant::now(), is_told, state: Mutex::default() }
    }

    /// Milliseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts a request that may be answered without anything happening.
    ///
    /// # Panics
    /// In a run that has become a circle.
    pub(crate) fn turn(&self) {
        let mut state = self.lock();
        state.turns += 1;
        assert!(state.turns < TURNS_MAX, "the run goes round in a circle");
    }

    /// Notes an event.
    pub(crate) fn note(&self, what: &'static str, numbers: &[u64]) {
        let now = self.now();
        let mut state = self.lock();
        let mut hash = state.hash;
        for number in [now, u64::from(number_of(what))].iter().chain(numbers) {
            hash = (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        state.hash = hash;
        state.events += 1;
        drop(state);
        if self.is_told {
            println!("{:>10} ms  {what} {numbers:?}", now);
        }
    }

    /// Counts something that ought to happen sometimes.
    pub(crate) fn sometimes(&self, what: &'static str) {
        self.count(what, 1);
    }

    pub(crate) fn count(&self, what: &'static str, more: u64) {
        *self.lock().counters.entry(what).or_default() += more;
    }

    /// A promise is broken. The first one is kept.
    pub(crate) fn violation(&self, what: String) {
        let now = self.now();
        if self.is_told {
            println!("{now:>10} ms  VIOLATION {what}");
        }
        self.lock().violation.get_or_insert(format!("at {now} ms: {what}"));
    }

    pub(crate) fn is_violated(&self) -> bool {
        self.lock().violation.is_some()
    }

    pub(crate) fn told(&self) -> bool {
        self.is_told
    }

    /// Hash, events, counters and violation.
    pub(crate) fn finish(&self) -> Finished {
        let state = self.lock();
        Finished {
            hash: state.hash,
            events: state.events,
            counters: state.counters.clone(),
            violation: state.violation.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left of a record when its run is over.
pub(crate) struct Finished {
    pub(crate) hash: u64,
    pub(crate) events: u64,
    pub(crate) counters: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<String>,
}

/// A number for a name.
fn number_of(name: &str) -> u32 {
    let fold = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    name.bytes().fold(0x811c_9dc5, fold)
}
