//! Many runs, on as many threads as there are cores, each seed on one of them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::mutation::Mutation;
use super::node::lock;
use super::run::{Report, simulate};

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    Seeds(u64),
    Time(Duration),
}

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Batch {
    pub runs: u64,
    pub events: u64,
    pub simulated: Duration,
    pub elapsed: Duration,
    pub counters: BTreeMap<&'static str, u64>,
    /// The runs that broke a promise, by seed.
    pub failures: Vec<Report>,
}

/// What has to happen in some run of a batch, or the batch has proved less than it seems to.
const EXPECTED: &[&str] = &[
    "a flush was answered",
    "a checkpoint was stored",
    "a volume was closed",
    "a volume was taken over",
    "a client died",
    "a client died while it opened",
    "a client was paused",
    "a node lost power",
    "a node lost power inside an operation",
    "a node was killed",
    "all nodes lost power",
    "a crash met un-synced sectors",
    "a crash took what was not flushed",
    "a disk hung",
    "a sync failed",
    "a store was full",
    "a sealed copy rotted",
    "a peer found its copy corrupt",
    "a write was lost",
    "a write was misdirected",
    "a stale writer was refused",
    "the metadata refused a stale epoch",
    "an answer of the metadata was lost",
    "a command arrived late",
    "the metadata was out of reach",
    "the network was partitioned",
    "the ring changed",
    "a peer followed another ring",
    "an unsettled copy was refused",
    "a snapshot was restored",
    "a volume was what had been restored",
    "a client died while it restored",
    "a group snapshot was taken",
    "a group snapshot was held against its writes",
    "a volume was renamed",
    "a volume was deleted",
    "a deleted volume was created anew",
    "a client died while it deleted",
];

/// Which of the events that ought to happen sometimes never did.
pub fn missing_events(batch: &Batch) -> Vec<&'static str> {
    EXPECTED.iter().copied().filter(|event| !batch.counters.contains_key(event)).collect()
}

impl Batch {
    #[expect(clippy::disallowed_methods, reason = "how long the runs take in the real world")]
    /// Runs seeds from `first` on. Stops at the first failure if `to_first_failure`.
    pub fn run(
        first: u64,
        limit: Limit,
        mutation: Option<Mutation>,
        to_first_failure: bool,
        mut tell: impl FnMut(&Self) + Send,
    ) -> Self {
        let began = Instant::now();
        let next = AtomicU64::new(first);
        let is_over = AtomicBool::new(false);
        let batch = Mutex::new((Self::default(), &mut tell));
        let work = || {
            while !is_over.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let is_due = match limit {
                    Limit::Seeds(count) => seed - first >= count,
                    Limit::Time(time) => began.elapsed() >= time,
                };
                if is_due {
                    return;
                }
                let report = simulate(seed, mutation, false);
                let mut guard = lock(&batch);
                let (batch, tell) = &mut *guard;
                batch.add(report);
                batch.elapsed = began.elapsed();
                if to_first_failure && !batch.failures.is_empty() {
                    is_over.store(true, Ordering::Relaxed);
                }
                tell(batch);
            }
        };
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            (0..threads).for_each(|_| drop(scope.spawn(work)));
        });
        let (mut batch, _) = batch.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        batch.elapsed = began.elapsed();
        batch.failures.sort_by_key(|report| report.seed);
        batch
    }

    fn add(&mut self, report: Report) {
        self.runs += 1;
        self.events += report.events;
        self.simulated += Duration::from_millis(report.simulated_ms);
        for (name, count) in &report.counters {
            *self.counters.entry(name).or_default() += count;
        }
        if report.violation.is_some() {
            self.failures.push(report);
        }
    }

    /// Simulated hours in a minute.
    pub fn rate(&self) -> f64 {
        let minutes = self.elapsed.as_secs_f64() / 60.0;
        self.simulated.as_secs_f64() / 3600.0 / minutes.max(1e-9)
    }
}
