//! Decides when a replicated operation has succeeded or was cut off.
//!
//! Pure: answers in, at most one outcome out, no clock and no sockets. The pool sends the requests
//! and turns what comes back into events.
//!
//! Invariants: an outcome is reported once; `Done` means that every peer has done it; a newer epoch
//! counts for more than a failed peer, because nothing helps a writer that was replaced.

use std::collections::BTreeSet;

use torus_blockstore::{CutOff, Epoch, PeerId};

/// What the driver saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The peer has done what was asked.
    Done(PeerId),
    /// The peer refused, or does not answer.
    Failed(PeerId),
    /// The peer has seen this newer epoch.
    Fenced(PeerId, Epoch),
    /// No more answers will be awaited.
    Enough,
}

/// One operation on all of its peers.
#[derive(Debug)]
pub(crate) struct ReplicatedWrite {
    waiting: BTreeSet<PeerId>,
    failed: BTreeSet<PeerId>,
    is_over: bool,
}

impl ReplicatedWrite {
    /// Starts an operation that is done when all of `peers` have done it.
    pub(crate) fn new(peers: impl IntoIterator<Item = PeerId>) -> Self {
        let waiting = peers.into_iter().collect();
        Self { waiting, failed: BTreeSet::new(), is_over: false }
    }

    /// Whether a peer has failed: then the rest is not worth a long wait.
    pub(crate) fn is_cut_off(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Takes one event; returns the outcome if this event decided it.
    pub(crate) fn step(&mut self, event: Event) -> Option<Result<(), CutOff>> {
        if self.is_over {
            return None;
        }
        match event {
            Event::Done(peer) => {
                self.waiting.remove(&peer);
            }
            Event::Failed(peer) => {
                if self.waiting.remove(&peer) {
                    self.failed.insert(peer);
                }
            }
            Event::Fenced(_, newest) => {
                self.is_over = true;
                return Some(Err(CutOff::Fenced { newest }));
            }
            // Who has not answered has not done it. After a failure it is not blamed: it had no time.
            Event::Enough if self.failed.is_empty() => self.failed.append(&mut self.waiting),
            Event::Enough => self.waiting.clear(),
        }
        if !self.waiting.is_empty() {
            return None;
        }
        self.is_over = true;
        if self.failed.is_empty() {
            return Some(Ok(()));
        }
        Some(Err(CutOff::Lost { failed: self.failed.iter().copied().collect() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// Runs a script of `+peer` (done), `-peer` (failed), `^peer` (has seen epoch 9) and `!`
    /// (enough) on peers 1 to 3.
    #[track_caller]
    fn check(script: &str, expected: Expect) {
        let peer = |number: u128| PeerId::decode(number.to_be_bytes());
        let mut write = ReplicatedWrite::new((1..=3).map(peer));
        let mut outcomes = Vec::new();
        for word in script.split_whitespace() {
            let named = word[1..].parse().map(peer);
            let event = match (&word[..1], named) {
                ("+", Ok(peer)) => Event::Done(peer),
                ("-", Ok(peer)) => Event::Failed(peer),
                ("^", Ok(peer)) => Event::Fenced(peer, Epoch(9)),
                ("!", Err(_)) => Event::Enough,
                _ => panic!("{word:?} is no event"),
            };
            outcomes.extend(write.step(event).map(|outcome| {
                let outcome = match outcome {
                    Ok(()) => "done".to_owned(),
                    Err(CutOff::Fenced { newest }) => format!("fenced by {newest}"),
                    Err(CutOff::Lost { failed }) => {
                        let failed = failed.iter().map(|peer| peer.0.as_u128().to_string());
                        format!("lost {}", failed.collect::<Vec<_>>().join(" "))
                    }
                };
                format!("{word}: {outcome}")
            }));
        }
        expected.assert_eq(&outcomes.join("; "));
    }

    #[test]
    fn all_peers_are_needed() {
        check("+1 +3", expect![""]);
        check("+1 +3 +2", expect!["+2: done"]);
    }

    #[test]
    fn an_answer_counts_once() {
        check("+1 +1 +1 +2 +3 +3", expect!["+3: done"]);
        check("+1 -1 +2 +3", expect!["+3: done"]);
    }

    #[test]
    fn failed_peers_are_named() {
        check("-2 +1 -3", expect!["-3: lost 2 3"]);
        check("-2 +2 +1 +3", expect!["+3: lost 2"]);
    }

    #[test]
    fn a_slow_peer_is_not_blamed_for_another() {
        check("-2 +1 !", expect!["!: lost 2"]);
    }

    #[test]
    fn silence_is_blamed_when_nobody_failed() {
        check("+1 !", expect!["!: lost 2 3"]);
    }

    #[test]
    fn a_newer_epoch_ends_it_at_once() {
        check("+1 -2 ^3 +3", expect!["^3: fenced by 9"]);
    }

    proptest::proptest! {
        #[test]
        fn there_is_one_outcome(events in proptest::collection::vec((0_u8..4, 1_u128..4), 0..20)) {
            let peer = |number: u128| PeerId::decode(number.to_be_bytes());
            let mut write = ReplicatedWrite::new((1..=3).map(peer));
            let step = |(kind, number)| match kind {
                0 => write.step(Event::Done(peer(number))),
                1 => write.step(Event::Failed(peer(number))),
                2 => write.step(Event::Fenced(peer(number), Epoch(9))),
                _ => write.step(Event::Enough),
            };
            let outcomes = events.into_iter().filter_map(step).count();
            proptest::prop_assert!(outcomes <= 1);
        }
    }
}
