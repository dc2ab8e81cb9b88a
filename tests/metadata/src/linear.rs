//! Whether a history of calls can be explained by a sequence of them: the search of Wing and Gong,
//! with the memory of states that Lowe added.
//!
//! Source: G. Lowe, "Testing for linearizability", Concurrency and Computation 29(4), 2017.

use std::collections::BTreeSet;
use std::fmt::Debug;

/// One call and when it was under way. `end` is `None` when no answer came: it may have had its
/// effect at any time since, or have it never.
#[derive(Clone, Debug)]
pub(crate) struct Call<O> {
    pub(crate) begin: u64,
    pub(crate) end: Option<u64>,
    pub(crate) op: O,
}

/// What the calls are made to.
pub(crate) trait Model {
    type State: Clone + Debug + Ord;
    type Op: Debug;

    fn initial(&self) -> Self::State;

    /// The states in which the object may be after this call, if before it was in `state`; none if
    /// the call cannot have ended as it did.
    fn step(&self, state: &Self::State, call: &Call<Self::Op>) -> Vec<Self::State>;
}

/// What a check came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// It cannot be explained; the text shows how far it could.
    Violated(String),
    /// The search was given up.
    Undecided,
}

/// States that are looked at before the search is given up.
const STATES_MAX: usize = 400_000;

type Done = Vec<u64>;

fn has(done: &Done, index: usize) -> bool {
    done[index / 64] >> (index % 64) & 1 == 1
}

/// Checks the calls, in any order.
pub(crate) fn check<M: Model>(model: &M, mut calls: Vec<Call<M::Op>>) -> Verdict {
    calls.sort_by_key(|call| call.begin);
    let none: Done = vec![0; calls.len().div_ceil(64)];
    let first = (none, model.initial());
    let mut seen = BTreeSet::from([first.clone()]);
    let mut stack = vec![first];
    let mut best: Option<(usize, Done, M::State)> = None;
    while let Some((done, state)) = stack.pop() {
        // A call that began after another had ended cannot come before it.
        let open = || (0..calls.len()).filter(|index| !has(&done, *index));
        let Some(bound) = open().filter_map(|index| calls[index].end).min() else {
            return Verdict::Linearizable;
        };
        let count = done.iter().map(|word| word.count_ones() as usize).sum();
        if best.as_ref().is_none_or(|(most, ..)| count > *most) {
            best = Some((count, done.clone(), state.clone()));
        }
        for index in open().take_while(|index| calls[*index].begin < bound) {
            for next in model.step(&state, &calls[index]) {
                let mut done = done.clone();
                done[index / 64] |= 1 << (index % 64);
                let found = (done, next);
                if !seen.contains(&found) {
                    seen.insert(found.clone());
                    stack.push(found);
                }
            }
        }
        if seen.len() > STATES_MAX {
            return Verdict::Undecided;
        }
    }
    let text = best.map_or_else(String::new, |(count, done, state)| {
        let open = (0..calls.len()).filter(|index| !has(&done, *index));
        let next: Vec<_> = open.take(6).map(|index| &calls[index]).collect();
        format!("{count} of {} calls explained, then {state:?}, and next of {next:?}", calls.len())
    });
    Verdict::Violated(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register of numbers: `(write, value)`.
    struct Register;

    impl Model for Register {
        type State = u64;
        type Op = (bool, u64);

        fn initial(&self) -> u64 {
            0
        }

        fn step(&self, state: &u64, call: &Call<(bool, u64)>) -> Vec<u64> {
            match call.op {
                (true, value) => vec![value],
                (false, value) if value == *state => vec![value],
                (false, _) => vec![],
            }
        }
    }

    /// Calls as `w5:1-3` (write 5 from 1 to 3), `r5:2-4`, `w5:2-` (no answer).
    #[track_caller]
    fn check(script: &str, expected: bool) {
        let call = |word: &str| {
            let (what, when) = word.split_once(':').unwrap();
            let (begin, end) = when.split_once('-').unwrap();
            let op = (what.starts_with('w'), what[1..].parse().unwrap());
            Call { begin: begin.parse().unwrap(), end: end.parse().ok(), op }
        };
        let calls = script.split(' ').map(call).collect();
        let verdict = super::check(&Register, calls);
        assert_eq!(verdict == Verdict::Linearizable, expected, "{verdict:?}");
    }

    #[test]
    fn what_one_object_can_have_done() {
        check("w1:1-2 r1:3-4", true);
        check("w1:1-4 r0:2-3", true);
        check("w1:1-4 w2:2-5 r1:6-7", true);
        check("w1:1- r0:2-3 r1:4-5", true);
    }

    #[test]
    fn what_it_cannot() {
        check("w1:1-2 r0:3-4", false);
        check("w1:1-9 r1:2-3 r0:4-5", false);
        check("w1:1- r1:2-3 r0:4-5", false);
        check("w1:1-2 w2:3-4 r1:5-6", false);
    }
}
