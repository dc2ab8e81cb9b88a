//! Histograms for openraft's statistics, in place of the crate base2histogram 0.2.3.
//!
//! That crate computes tables of 26 MiB when the first histogram is made, more than half of what an
//! empty daemon had, for fifteen resolutions that openraft does not use. openraft shows its statistics to nobody
//! unless its feature `runtime-stats` is on, which it is not here: so this has what openraft
//! needs without that feature, and does not compile with it.
//!
//! A bucket for each power of two: percentiles are right within a factor of two.

use std::fmt;
use std::marker::PhantomData;

/// Bit lengths of a u64, zero among them.
const BUCKETS: usize = 65;

/// Counts values by their order of magnitude.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// By the number of bits that a value has.
    counts: [u64; BUCKETS],
    /// openraft names the type; the crate that this stands in for keeps data of it.
    of: PhantomData<T>,
}

/// Values that so many of the samples do not pass, each the largest of its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], of: PhantomData }
    }
}

impl<T> Histogram<T> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records `value` so many times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let bits = u64::BITS - value.leading_zeros();
        self.counts[bits as usize] += times;
    }

    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.counts.iter().sum(),
            p0_1: self.per_mille(1),
            p1: self.per_mille(10),
            p5: self.per_mille(50),
            p10: self.per_mille(100),
            p50: self.per_mille(500),
            p90: self.per_mille(900),
            p99: self.per_mille(990),
            p99_9: self.per_mille(999),
        }
    }

    /// What `share` of a thousand samples do not pass; zero if there are none.
    fn per_mille(&self, share: u64) -> u64 {
        let samples: u64 = self.counts.iter().sum();
        let rank = samples.saturating_mul(share).div_ceil(1000);
        let mut below = 0;
        let bucket = self.counts.iter().position(|&count| {
            below += count;
            below >= rank
        });
        match bucket {
            None | Some(0) => 0,
            Some(bits) => u64::MAX >> (BUCKETS - 1 - bits),
        }
    }
}

/// Histograms by their names. Printing them is what `runtime-stats` would need.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    histograms: Vec<(String, Histogram)>,
}

impl AsciiChart {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.histograms.push((name.into(), histogram));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_ends_of_buckets() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99, 0);
        for value in 1..=1000 {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p1), (1000, 1, 15));
        assert_eq!((stats.p50, stats.p90, stats.p99_9), (511, 1023, 1023));
        histogram.record_n(u64::MAX, 1);
        histogram.record_n(0, 1);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p99_9), (1002, 1, 1023));
    }

    #[test]
    fn the_largest_value_has_a_bucket() {
        let mut histogram = Histogram::<()>::new();
        histogram.record(u64::MAX);
        assert_eq!(histogram.percentile_stats().p0_1, u64::MAX);
    }
}
