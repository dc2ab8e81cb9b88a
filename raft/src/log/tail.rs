//! The newest entries in memory: all that are not on disk yet, and as many others as there is
//! room for.
//!
//! Pure. Invariants: the entries are consecutive; an entry that is not written is never evicted;
//! every entry of the log below [`Tail::first`] is on disk. Each append has a sequence number,
//! because an index alone is ambiguous: after a truncation it names a new entry while the write
//! of the old one may still be under way.

use std::collections::VecDeque;

use crate::config::Entry;

struct Kept {
    entry: Entry,
    size: usize,
    sequence: u64,
}

pub(super) struct Tail {
    kept: VecDeque<Kept>,
    first: u64,
    size: usize,
    size_max: usize,
    appended: u64,
    written: u64,
}

impl Tail {
    /// An empty tail behind a log whose entries, all on disk, end before `next`.
    pub(super) fn new(next: u64, size_max: usize) -> Self {
        Self { kept: VecDeque::new(), first: next, size: 0, size_max, appended: 0, written: 0 }
    }

    /// Index of the first entry in memory, or of the next one if there is none.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Adds consecutive entries with their encoded sizes; returns the append's sequence number.
    pub(super) fn append(&mut self, entries: impl IntoIterator<Item = (Entry, usize)>) -> u64 {
        self.appended += 1;
        for (entry, size) in entries {
            if self.kept.is_empty() {
                self.first = entry.log_id.index;
            }
            self.size += size;
            self.kept.push_back(Kept { entry, size, sequence: self.appended });
        }
        self.appended
    }

    /// Notes that all appends up to `sequence` are on disk.
    pub(super) fn written(&mut self, sequence: u64) {
        self.written = self.written.max(sequence);
        while self.size > self.size_max
            && self.kept.front().is_some_and(|kept| kept.sequence <= self.written)
        {
            self.pop_front();
        }
    }

    /// Forgets the entries from `next` on.
    pub(super) fn truncate(&mut self, next: u64) {
        while self.kept.back().is_some_and(|kept| kept.entry.log_id.index >= next) {
            if let Some(kept) = self.kept.pop_back() {
                self.size -= kept.size;
            }
        }
        if self.kept.is_empty() {
            self.first = self.first.min(next);
        }
    }

    /// Forgets the entries before `next`, which the log no longer contains.
    pub(super) fn purge(&mut self, next: u64) {
        while self.kept.front().is_some_and(|kept| kept.entry.log_id.index < next) {
            self.pop_front();
        }
        if self.kept.is_empty() {
            self.first = self.first.max(next);
        }
    }

    /// The entries from `start`, which is not below [`first`](Self::first), and their sizes.
    pub(super) fn from(&self, start: u64) -> impl Iterator<Item = (&Entry, usize)> {
        let skipped = usize::try_from(start.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.kept.iter().skip(skipped).map(|kept| (&kept.entry, kept.size))
    }

    fn pop_front(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.size -= kept.size;
            self.first = kept.entry.log_id.index + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::{Expect, expect};

    use super::Tail;
    use crate::config::{Entry, LeaderId, LogId, Payload};

    /// Runs a script on an empty log with room for 4 entries: `aM-N` appends, `wS` the writes of
    /// appends up to S end, `tN` truncates from N, `pN` purges before N; prints what is in memory.
    #[track_caller]
    fn check(script: &str, expected: Expect) {
        let mut tail = Tail::new(0, 4);
        let mut out = String::new();
        for step in script.split(' ') {
            let (verb, rest) = step.split_at(1);
            match verb {
                "a" => {
                    let (from, to) = rest.split_once('-').unwrap();
                    let range = from.parse().unwrap()..=to.parse().unwrap();
                    tail.append(range.map(|index| (entry(index), 1)));
                }
                "w" => tail.written(rest.parse().unwrap()),
                "t" => tail.truncate(rest.parse().unwrap()),
                _ => tail.purge(rest.parse().unwrap()),
            }
            let held: Vec<u64> = tail.from(tail.first()).map(|(e, _)| e.log_id.index).collect();
            writeln!(out, "{step}: from {} {held:?}", tail.first()).unwrap();
        }
        expected.assert_eq(&out);
    }

    fn entry(index: u64) -> Entry {
        let log_id = LogId::new(LeaderId { term: 1, node_id: 1 }, index);
        Entry { log_id, payload: Payload::Blank }
    }

    #[test]
    fn unwritten_entries_are_never_evicted() {
        check(
            "a0-5 a6-7 w1 w2",
            expect![[r#"
                a0-5: from 0 [0, 1, 2, 3, 4, 5]
                a6-7: from 0 [0, 1, 2, 3, 4, 5, 6, 7]
                w1: from 4 [4, 5, 6, 7]
                w2: from 4 [4, 5, 6, 7]
            "#]],
        );
    }

    #[test]
    fn a_late_write_of_truncated_entries_does_not_evict_their_successors() {
        check(
            "a0-3 t1 a1-6 w1 w2",
            expect![[r#"
                a0-3: from 0 [0, 1, 2, 3]
                t1: from 0 [0]
                a1-6: from 0 [0, 1, 2, 3, 4, 5, 6]
                w1: from 1 [1, 2, 3, 4, 5, 6]
                w2: from 3 [3, 4, 5, 6]
            "#]],
        );
    }

    #[test]
    fn truncation_and_purge_may_empty_it() {
        check(
            "a0-7 w1 t2 a2-3 p9 a9-9",
            expect![[r#"
                a0-7: from 0 [0, 1, 2, 3, 4, 5, 6, 7]
                w1: from 4 [4, 5, 6, 7]
                t2: from 2 []
                a2-3: from 2 [2, 3]
                p9: from 9 []
                a9-9: from 9 [9]
            "#]],
        );
    }
}
