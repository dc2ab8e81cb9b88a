//! Waiting for a state, with a bound: the only place of the tests that reads the clock.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Measures how long something takes.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "the tests measure real processes")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Looks until `look` returns `Ok`; its `Err` is the state that it saw instead.
///
/// Panics after `bound` with the state seen last.
#[track_caller]
#[expect(
    clippy::disallowed_methods,
    reason = "the state is awaited; this is the pause between looks"
)]
pub fn wait_until<T, S: Display>(
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> T {
    let watch = Stopwatch::start();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if watch.elapsed() > bound => {
                panic!("waited {bound:?} in vain until {what}; seen last: {seen}")
            }
            Err(_) => thread::sleep(PAUSE_BETWEEN_LOOKS),
        }
    }
}
