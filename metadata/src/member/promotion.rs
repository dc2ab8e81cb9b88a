//! Decides who votes. Pure.
//!
//! The number of voters is odd: an even one tolerates no more failures than the odd one below it,
//! and needs one more member for every decision.

use std::collections::BTreeSet;

/// What the leader knows of its group.
#[derive(Clone, Debug)]
pub(super) struct Electorate {
    pub(super) leader: u64,
    pub(super) voters: BTreeSet<u64>,
    /// Learners that have the log and answer.
    pub(super) ready: BTreeSet<u64>,
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

    /// One more, or if nobody is ready one less: the newest that does not lead.
    fn make_odd(&self, voters: &mut BTreeSet<u64>) {
        let newcomer = self.ready.iter().find(|node| !voters.contains(node));
        match newcomer.filter(|_| voters.len() < self.voters_max) {
            Some(node) => {
                voters.insert(*node);
            }
            None => {
                let leaver = voters.iter().rev().find(|node| **node != self.leader).copied();
                voters.retain(|node| Some(*node) != leaver);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn electorate(voters: &[u64], ready: &[u64]) -> Electorate {
        let set = |nodes: &[u64]| nodes.iter().copied().collect();
        Electorate { leader: voters[0], voters: set(voters), ready: set(ready), voters_max: 5 }
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
}
