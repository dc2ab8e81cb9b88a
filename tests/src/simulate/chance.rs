//! Where the simulation's randomness comes from: one seed, and a stream of numbers of its own for
//! every component, so that a change in one leaves the others as they were.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::Random;

/// A stream of numbers.
#[derive(Debug)]
pub(crate) struct Chance(Mutex<Random>);

impl Chance {
    /// The stream of the component `name` under `seed`.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a: the names only have to differ.
        let fold = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
        let mut random = Random(seed);
        Self(Mutex::new(Random(random.draw() ^ hash)))
    }

    pub(crate) fn draw(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).draw()
    }

    /// A number of `range`.
    pub(crate) fn within(&self, range: Range<u64>) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).within(range)
    }

    /// True in `per_million` of a million cases.
    pub(crate) fn happens(&self, per_million: u64) -> bool {
        // Drawn in any case, so that a rate of zero shifts nothing behind it.
        self.within(0..1_000_000) < per_million
    }

    pub(crate) fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    pub(crate) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.within(0..from.len() as u64)).unwrap_or(0)]
    }

    /// From a half to the whole, for pauses.
    pub(crate) fn part(&self) -> f64 {
        0.5 + f64::from(u32::try_from(self.within(0..1000)).unwrap_or(0)) / 2000.0
    }
}
