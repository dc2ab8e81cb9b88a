//! Decides who votes. Pure.
//!
//! The number of voters is odd: an even one tolerates no more failures than the odd one below it,
//! and needs one more member for every decision.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What the leader knows of its group.
#[derive(Clone, Debug)]
pub(super) struct Electorate {
    pub(super) leader: u64,
    pub(super) voters: BTreeSet<u64>,
    /// Learners that have the log and answer.
    pub(super) ready: BTreeSet<u64>,
    /// Up to where the log of each voter is known to be the leader's.
    pub(super) matched: BTreeMap<u64, u64>,
    pub(super) voters_max: usize,
}

impl Electorate {
    /// How many learners must be ready before anything can be gained.
    pub(super) fn wants(&self) -> usize {
        match self.voters.len() {
            count if count % 2 == 0 => 1,
            count if count + 2 <= self.voters_max => 2,
            _ => usize::MAX,
        }
    }

    /// The voters there should be, if they are not those there are.
    pub(super) fn next(&self) -> Option<BTreeSet<u64>> {
        let mut voters = self.voters.clone();
        while voters.len() > self.voters_max && self.leave(&mut voters) {}
        if voters.len().is_multiple_of(2) {
            self.make_odd(&mut voters);
        } else if self.ready.len() >= 2 && self.wants() == 2 {
            voters.extend(self.ready.iter().take(2));
        }
        (voters != self.voters).then_some(voters)
    }

    /// The voters there should be without `node`, which is not the leader.
    pub(super) fn without(&self, node: u64) -> BTreeSet<u64> {
        let mut voters = self.voters.clone();
        voters.remove(&node);
        if voters.len().is_multiple_of(2) {
            let mut others = self.clone();
            others.ready.remove(&node);
            others.make_odd(&mut voters);
        }
        voters
    }

    /// The voters there should be so that `node`, which is ready, votes: in the place of
    /// `instead_of`, as one more with another, or in the place of one of `silent`, the voters that do
    /// not answer. `None`: there would be an even number.
    pub(super) fn with(
        &self,
        node: u64,
        instead_of: Option<u64>,
        silent: &BTreeSet<u64>,
    ) -> Option<BTreeSet<u64>> {
        let mut voters = self.voters.clone();
        let is_new = voters.insert(node);
        if let Some(other) = instead_of {
            voters.remove(&other);
            // Both had one.
            return (is_new || !voters.len().is_multiple_of(2)).then_some(voters);
        }
        if !is_new {
            return Some(voters);
        }
        if voters.len().is_multiple_of(2) {
            let another = self.ready.iter().find(|ready| !voters.contains(ready));
            let has_room = voters.len() < self.voters_max;
            match (another.filter(|_| has_room), silent.first()) {
                (Some(another), _) => voters.insert(*another),
                (None, Some(silent)) => voters.remove(silent),
                (None, None) => return None,
            };
        }
        Some(voters)
    }

    /// One more, or if nobody is ready one less.
    fn make_odd(&self, voters: &mut BTreeSet<u64>) {
        let newcomer = self.ready.iter().find(|node| !voters.contains(node));
        match newcomer.filter(|_| voters.len() < self.voters_max) {
            Some(node) => {
                voters.insert(*node);
            }
            None => {
                self.leave(voters);
            }
        }
    }

    /// Takes the vote from the one that is missed least: not from the leader, and first from who is
    /// furthest behind, who may be dead; of equals from the newest. Whether there was one.
    fn leave(&self, voters: &mut BTreeSet<u64>) -> bool {
        let others = voters.iter().filter(|node| **node != self.leader);
        let leaver = others.min_by_key(|node| (self.matched.get(node), Reverse(**node))).copied();
        leaver.is_some_and(|leaver| voters.remove(&leaver))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn electorate(voters: &[u64], ready: &[u64]) -> Electorate {
        let set = |nodes: &[u64]| nodes.iter().copied().collect();
        Electorate {
            leader: voters[0],
            voters: set(voters),
            ready: set(ready),
            matched: BTreeMap::new(),
            voters_max: 5,
        }
    }

    #[track_caller]
    fn check(voters: &[u64], ready: &[u64], expected: Expect) {
        expected.assert_eq(&format!("{:?}", electorate(voters, ready).next()));
    }

    #[test]
    fn voters_grow_by_two() {
        check(&[1], &[], expect!["None"]);
        check(&[1], &[7], expect!["None"]);
        check(&[1], &[7, 9], expect!["Some({1, 7, 9})"]);
        check(&[1, 7, 9], &[11], expect!["None"]);
        check(&[1, 7, 9], &[11, 12, 13], expect!["Some({1, 7, 9, 11, 12})"]);
        check(&[1, 7, 9, 11, 12], &[13, 14], expect!["None"]);
    }

    #[test]
    fn an_even_number_does_not_stay() {
        check(&[1, 7], &[9], expect!["Some({1, 7, 9})"]);
        check(&[7, 1], &[], expect!["Some({7})"]);
        check(&[1, 7, 9, 11], &[], expect!["Some({1, 7, 9})"]);
    }

    #[test]
    fn a_voter_that_goes_is_replaced_or_takes_another_along() {
        let without = |voters, ready, node| electorate(voters, ready).without(node);
        assert_eq!(without(&[1, 7, 9], &[11], 7), [1, 9, 11].into());
        assert_eq!(without(&[1, 7, 9], &[], 7), [1].into());
        assert_eq!(without(&[1, 7, 9], &[], 9), [1].into());
        assert_eq!(without(&[1, 7], &[], 7), [1].into());
    }

    #[test]
    fn too_many_voters_become_fewer_and_the_dead_go_first() {
        let mut five = electorate(&[1, 7, 9, 11, 12], &[13, 14]);
        five.voters_max = 3;
        assert_eq!(five.next(), Some([1, 7, 9].into()));
        five.matched = [(1, 50), (9, 50), (7, 20), (11, 49), (12, 50)].into();
        assert_eq!(five.next(), Some([1, 9, 12].into()));
        five.voters_max = 1;
        assert_eq!(five.next(), Some([1].into()));
    }

    #[test]
    fn a_learner_gets_a_vote_and_the_number_stays_odd() {
        let with = |voters: &[u64], ready: &[u64], instead_of, silent: &[u64]| {
            let silent = silent.iter().copied().collect();
            electorate(voters, ready).with(20, instead_of, &silent)
        };
        assert_eq!(with(&[1], &[20, 21], None, &[]), Some([1, 20, 21].into()));
        assert_eq!(with(&[1, 2, 3], &[20], None, &[]), None);
        assert_eq!(with(&[1, 2, 3], &[20], None, &[2]), Some([1, 3, 20].into()));
        assert_eq!(with(&[1, 2, 3], &[20], Some(3), &[2]), Some([1, 2, 20].into()));
        assert_eq!(with(&[1, 2], &[20], None, &[]), Some([1, 2, 20].into()));
        assert_eq!(with(&[1, 2, 3, 4, 5], &[20, 21], None, &[]), None);
        assert_eq!(with(&[1, 20], &[], None, &[]), Some([1, 20].into()));
        assert_eq!(with(&[1, 20], &[], Some(1), &[]), Some([20].into()));
        assert_eq!(with(&[1, 3, 20], &[], Some(3), &[]), None);
    }
}
