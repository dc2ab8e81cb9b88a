//! The reads that are under way, by when they began: what the map has let go of is deleted only when
//! no read is left that began before.

use std::collections::VecDeque;
use std::sync::Arc;

/// A moment between reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

/// Held by a read until it has ended.
pub(super) type Reading = Arc<()>;

#[derive(Default)]
pub(super) struct Reads {
    /// Held by those that begin now.
    now: Reading,
    /// Held by those that began before each mark, and after the one before it; oldest first.
    before: VecDeque<(Mark, Reading)>,
    marks: u64,
}

impl Reads {
    pub(super) fn begin(&self) -> Reading {
        Arc::clone(&self.now)
    }

    /// Marks this moment.
    pub(super) fn mark(&mut self) -> Mark {
        while self.before.front().is_some_and(|(_, reads)| has_ended(reads)) {
            self.before.pop_front();
        }
        self.marks += 1;
        let mark = Mark(self.marks);
        self.before.push_back((mark, std::mem::take(&mut self.now)));
        mark
    }

    /// Whether all reads that began before the mark have ended.
    pub(super) fn is_passed(&self, mark: Mark) -> bool {
        self.before.iter().take_while(|(at, _)| *at <= mark).all(|(_, reads)| has_ended(reads))
    }
}

fn has_ended(reads: &Reading) -> bool {
    Arc::strong_count(reads) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_waits_for_all_reads_before_it_also_those_before_an_older_mark() {
        let mut reads = Reads::default();
        let old = reads.begin();
        let first = reads.mark();
        let middle = reads.begin();
        let second = reads.mark();
        let _young = reads.begin();
        assert!(!reads.is_passed(first) && !reads.is_passed(second));
        drop(middle);
        assert!(!reads.is_passed(second), "the oldest read goes on");
        drop(old);
        assert!(reads.is_passed(first) && reads.is_passed(second));
        let third = reads.mark();
        assert!(reads.is_passed(second) && !reads.is_passed(third));
    }
}
