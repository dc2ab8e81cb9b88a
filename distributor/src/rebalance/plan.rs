//! What a holder does with one of its sealed blocks: a pure decision.
//!
//! Invariants:
//! - A copy is dropped only where the ring does not want it, and only after every place that does
//!   want it holds the same content, sealed.
//! - What a peer does not answer is never taken for an answer.
//! - Of several holders one pushes: the first in the ring's order that the ring wants to hold the
//!   block, or, if there is none, whoever has it. The others wait for it.

use std::collections::BTreeMap;

use torus_blockstore::{BlockState, PeerId, Seal};

/// What another peer says of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Missing,
    /// It has the beginning, or something else that a crash left.
    Unsealed,
    Sealed(Seal),
    /// No answer.
    Silent,
}

impl From<Option<BlockState>> for Known {
    fn from(state: Option<BlockState>) -> Self {
        match state {
            None => Self::Missing,
            Some(BlockState::Open { .. } | BlockState::Unsettled) => Self::Unsealed,
            Some(BlockState::Sealed(seal)) => Self::Sealed(seal),
        }
    }
}

/// Something to be done for another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send it the content.
    Push(PeerId),
    /// Tell it the seal, and send the content if what it has is something else.
    Settle(PeerId),
}

/// What is to become of the holder's own copy, once the steps are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// The ring wants it here.
    Keep,
    /// Ask once more, and drop it.
    Drop,
    /// Another holder, or an answer that is missing, has to come first.
    Wait,
}

/// What to do with one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) steps: Vec<Step>,
    pub(crate) own: Own,
    /// Places that hold other content under the same name; nobody decides between the two here.
    pub(crate) conflicts: Vec<PeerId>,
}

/// Decides about a block that `me` holds with `seal`, whose places are `desired`, in the ring's
/// order; `known` are the answers of the others among them.
pub(crate) fn judge(
    me: PeerId,
    seal: Seal,
    desired: &[PeerId],
    known: &BTreeMap<PeerId, Known>,
) -> Verdict {
    let answer = |peer: &PeerId| {
        if *peer == me {
            return Known::Sealed(seal);
        }
        known.get(peer).copied().unwrap_or(Known::Silent)
    };
    let first_holder = desired.iter().find(|peer| answer(peer) == Known::Sealed(seal));
    let pushes = first_holder.is_none_or(|&holder| holder == me);
    let mut verdict = Verdict { steps: Vec::new(), own: Own::Keep, conflicts: Vec::new() };
    let mut is_complete = true;
    for peer in desired {
        match answer(peer) {
            Known::Sealed(found) if found == seal => {}
            Known::Sealed(_) => {
                verdict.conflicts.push(*peer);
                is_complete = false;
            }
            Known::Missing if pushes => verdict.steps.push(Step::Push(*peer)),
            Known::Unsealed if pushes => verdict.steps.push(Step::Settle(*peer)),
            Known::Missing | Known::Unsealed | Known::Silent => is_complete = false,
        }
    }
    if !desired.contains(&me) {
        // A ring that wants the block nowhere is no reason to lose it.
        verdict.own = if is_complete && !desired.is_empty() { Own::Drop } else { Own::Wait };
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn peer(number: u128) -> PeerId {
        PeerId::decode(number.to_be_bytes())
    }

    /// Peer 1 holds a block whose places are the numbers of `places`, each with what it answers:
    /// `=` the same, `!` other content, `-` missing, `~` unsealed, `?` nothing.
    #[track_caller]
    fn check(places: &str, expected: Expect) {
        let seal = Seal { length: 5, crc: 7 };
        let mut desired = Vec::new();
        let mut known = BTreeMap::new();
        for word in places.split_whitespace() {
            let place = peer(word[..1].parse().unwrap());
            desired.push(place);
            let answer = match &word[1..] {
                "=" => Known::Sealed(seal),
                "!" => Known::Sealed(Seal { length: 5, crc: 8 }),
                "-" => Known::Missing,
                "~" => Known::Unsealed,
                "?" => Known::Silent,
                _ => continue,
            };
            known.insert(place, answer);
        }
        let verdict = judge(peer(1), seal, &desired, &known);
        let mut words: Vec<String> = Vec::new();
        for step in verdict.steps {
            words.push(match step {
                Step::Push(peer) => format!("push to {}", peer.0.as_u128()),
                Step::Settle(peer) => format!("settle {}", peer.0.as_u128()),
            });
        }
        words.extend(verdict.conflicts.iter().map(|peer| format!("conflict {}", peer.0.as_u128())));
        words.push(format!("{:?}", verdict.own).to_lowercase());
        expected.assert_eq(&words.join(", "));
    }

    #[test]
    fn a_block_in_its_places_stays() {
        check("1 2=", expect!["keep"]);
        check("2= 1", expect!["keep"]);
    }

    #[test]
    fn what_is_missing_is_pushed_by_the_first_holder() {
        check("1 2-", expect!["push to 2, keep"]);
        check("2- 1 3~", expect!["push to 2, settle 3, keep"]);
        check("2= 1 3-", expect!["keep"]);
    }

    #[test]
    fn a_misplaced_block_is_dropped_when_its_places_have_it() {
        check("2= 3=", expect!["drop"]);
        check("2- 3-", expect!["push to 2, push to 3, drop"]);
    }

    #[test]
    fn a_misplaced_block_waits_for_a_rightful_holder_to_push() {
        check("2= 3-", expect!["wait"]);
        check("2- 3=", expect!["wait"]);
    }

    #[test]
    fn silence_and_conflict_keep_the_copy() {
        check("2= 3?", expect!["wait"]);
        check("2? 3?", expect!["wait"]);
        check("2- 3?", expect!["push to 2, wait"]);
        check("2= 3!", expect!["conflict 3, wait"]);
        check("2! 1", expect!["conflict 2, keep"]);
    }

    #[test]
    fn an_empty_ring_drops_nothing() {
        check("", expect!["wait"]);
    }
}
