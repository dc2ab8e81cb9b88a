//! What happened in a run: a hash of every event with its time, counters of what is worth counting,
//! and the first violation.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The record of one run.
#[derive(Default)]
pub(crate) struct Trace {
    is_told: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    now: Duration,
    hash: u64,
    events: u64,
    counters: BTreeMap<&'static str, u64>,
    violation: Option<String>,
}

/// What a run came to.
pub(crate) struct Finished {
    pub(crate) hash: u64,
    pub(crate) events: u64,
    pub(crate) counters: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<String>,
}

impl Trace {
    /// An empty record. If `is_told`, every event is printed.
    pub(crate) fn new(is_told: bool) -> Self {
        Self { is_told, state: Mutex::default() }
    }

    /// The simulation has come to this time.
    pub(crate) fn set_now(&self, now: Duration) {
        self.lock().now = now;
    }

    pub(crate) fn now(&self) -> Duration {
        self.lock().now
    }

    /// Notes an event; returns its number, which orders it among all others.
    pub(crate) fn note(&self, event: &str) -> u64 {
        let mut state = self.lock();
        let now = state.now;
        let mut hash = state.hash ^ u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        for byte in event.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        state.hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        state.events += 1;
        let number = state.events;
        drop(state);
        if self.is_told {
            println!("{:>10} ms  {event}", now.as_millis());
        }
        number
    }

    /// Counts something that ought to happen sometimes.
    pub(crate) fn sometimes(&self, what: &'static str) {
        self.count(what, 1);
    }

    pub(crate) fn count(&self, what: &'static str, more: u64) {
        *self.lock().counters.entry(what).or_default() += more;
    }

    /// A promise is broken. The first one is kept.
    pub(crate) fn violation(&self, what: &str) {
        let mut state = self.lock();
        let now = state.now.as_millis();
        if self.is_told {
            println!("{now:>10} ms  VIOLATION {what}");
        }
        state.violation.get_or_insert(format!("at {now} ms: {what}"));
    }

    pub(crate) fn is_violated(&self) -> bool {
        self.lock().violation.is_some()
    }

    pub(crate) fn finish(&self) -> Finished {
        let mut state = self.lock();
        Finished {
            hash: state.hash,
            events: state.events,
            counters: std::mem::take(&mut state.counters),
            violation: state.violation.take(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
