//! Where a run's decisions come from: one seed, and a stream of numbers of its own for every
//! component, so that a change in one leaves the others as they were.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A stream of numbers (SplitMix64).
#[derive(Debug)]
pub(crate) struct Chance(Mutex<u64>);

impl Chance {
    /// The stream of the component `name` under `seed`.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        // FNV-1a: the names only have to differ.
        let fold = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
        let start = Self(Mutex::new(seed));
        Self(Mutex::new(start.draw() ^ hash))
    }

    pub(crate) fn draw(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `range`.
    pub(crate) fn within(&self, range: Range<u64>) -> u64 {
        range.start + self.draw() % (range.end - range.start)
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn happens(&self, percent: u64) -> bool {
        // Drawn in any case, so that a rate of zero shifts nothing behind it.
        self.within(0..100) < percent
    }

    pub(crate) fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    pub(crate) fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.within(0..from.len() as u64)).unwrap_or(0)]
    }
}
