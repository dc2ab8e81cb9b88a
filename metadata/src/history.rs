//! The newest changes, from which watches are fed. Each member keeps its own; a snapshot has none.

use std::collections::VecDeque;

use crate::{Event, Revision};

/// How many revisions are kept.
const REVISIONS_MAX: usize = 100_000;
/// And in how much memory, roughly.
const BYTES_MAX: usize = 64 << 20;

/// A gapless run of revisions and their events.
#[derive(Debug, Default)]
pub(crate) struct History {
    compacted: Revision,
    /// The first is that of `compacted + 1`.
    changes: VecDeque<Vec<Event>>,
    bytes: usize,
}

impl History {
    /// An empty history behind `revision`.
    pub(crate) fn starting_at(revision: Revision) -> Self {
        Self { compacted: revision, ..Self::default() }
    }

    pub(crate) fn push(&mut self, revision: Revision, events: Vec<Event>) {
        let next = self.newest().0 + 1;
        assert_eq!(revision.0, next, "revisions follow one another");
        self.bytes += size(&events);
        self.changes.push_back(events);
        while self.changes.len() > REVISIONS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.compacted.0 += 1;
        }
    }

    /// Up to `limit` changes after `from`; `None` when some of them are no longer kept.
    pub(crate) fn after(
        &self,
        from: Revision,
        limit: usize,
    ) -> Option<VecDeque<(Revision, Vec<Event>)>> {
        let skipped = usize::try_from(from.0.checked_sub(self.compacted.0)?).unwrap_or(usize::MAX);
        let changes = self.changes.iter().skip(skipped).take(limit);
        // A client may name any revision; behind the last one there is nothing yet.
        let first = from.0.saturating_add(1);
        Some((first..u64::MAX).map(Revision).zip(changes.cloned()).collect())
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    fn newest(&self) -> Revision {
        Revision(self.compacted.0 + self.changes.len() as u64)
    }
}

/// What `events` take in memory, roughly: by the parts that can be many.
fn size(events: &[Event]) -> usize {
    let event = |event: &Event| match event {
        Event::VolumeChanged(volume) => {
            128 * volume.windows.len() + 256 * volume.snapshots.len() + 64 * volume.retired.len()
        }
        Event::RingChanged(ring) => 64 * ring.members.len(),
        Event::GroupChanged(group) => 64 * group.members.len(),
        _ => 0,
    };
    events.iter().map(|e| 256 + event(e)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionId;

    fn ended(number: u64) -> Vec<Event> {
        vec![Event::SessionEnded(SessionId(number))]
    }

    #[test]
    fn changes_come_in_order_and_without_gaps() {
        let mut history = History::starting_at(Revision(10));
        for number in 11..=13 {
            history.push(Revision(number), ended(number));
        }
        let after = |from, limit| history.after(Revision(from), limit);
        assert_eq!(after(9, 9), None);
        assert_eq!(after(12, 9), Some([(Revision(13), ended(13))].into()));
        assert_eq!(after(10, 1), Some([(Revision(11), ended(11))].into()));
        assert_eq!(after(13, 9), Some(VecDeque::new()));
        // A member that lags behind the one watched before has nothing to tell yet.
        assert_eq!(after(99, 9), Some(VecDeque::new()));
    }

    #[test]
    fn the_oldest_changes_are_compacted() {
        let mut history = History::default();
        for number in 1..=REVISIONS_MAX as u64 + 5 {
            history.push(Revision(number), ended(number));
        }
        assert_eq!(history.compacted(), Revision(5));
        assert_eq!(history.after(Revision(4), 1), None);
        assert_eq!(history.after(Revision(5), 1), Some([(Revision(6), ended(6))].into()));
    }
}
