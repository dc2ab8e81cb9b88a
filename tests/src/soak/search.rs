//! Whether a history of one object is linearizable: Wing and Gong's search with Lowe's memory, as
//! Porcupine does it.
//!
//! Pure. An operation may be placed next if no other that is not placed yet had its answer before
//! it was called. The search places operations one after another, goes back where an answer does not
//! fit, and never enters twice a pair of (operations placed, state). One without an answer may be
//! placed at any time after its call, or never.
//!
//! Two rules keep it short and change nothing: an answer that fits, of an operation that only looks,
//! can as well be placed at once; and a write without an answer whose value nobody saw need not be
//! placed at all.
//!
//! A set of operations is remembered by a hash of 128 bits. Two that meet in one could make a good
//! history be refused, never a bad one be accepted.

use std::collections::HashSet;
use std::fmt;

use super::model::{Input, Output, State};
use crate::history::Random;

/// Pairs after which the search gives up.
const VISITED_MAX: usize = 20_000_000;

/// One operation of a client; times in ns since the run began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) client: u64,
    pub(super) call: u64,
    pub(super) input: Input,
    /// When it was answered, and what.
    pub(super) answer: Option<(u64, Output)>,
}

impl Operation {
    /// Whether it changes nothing wherever its answer fits.
    fn only_looks(&self) -> bool {
        match (&self.input, &self.answer) {
            (Input::Read, _) => true,
            (_, Some((_, output))) => matches!(
                output,
                Output::RingIsAt(_)
                    | Output::HeldBy { .. }
                    | Output::NoSession
                    | Output::Stale { .. }
            ),
            (_, None) => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Linearizable,
    /// Where the longest attempt got stuck.
    Violation(Stuck),
    /// It takes too long to tell.
    Undecided,
}

/// The longest prefix that could be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stuck {
    pub(super) placed: usize,
    pub(super) state: State,
    /// The answered operations of which one had to come next.
    pub(super) next: Vec<Operation>,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "behind {} operations the state is {:?}; none fits of",
            self.placed, self.state
        )?;
        self.next.iter().try_for_each(|operation| writeln!(f, "  {operation:?}"))
    }
}

/// Looks for an order of `operations` that begins with `initial`.
pub(super) fn check(initial: &State, operations: &[Operation]) -> Verdict {
    Search::new(operations).run(initial)
}

/// The values of registers and locks that some read showed.
fn seen_values(answered: &[&Operation]) -> HashSet<u64> {
    let value = |operation: &&Operation| match operation.answer {
        Some((_, Output::Value(value))) => Some(value),
        Some((_, Output::Lock(ref lock))) => Some(lock.value),
        _ => None,
    };
    answered.iter().filter_map(value).collect()
}

struct Search<'a> {
    /// By call; those with an answer, and those without.
    answered: Vec<&'a Operation>,
    open: Vec<&'a Operation>,
    /// Whether each is placed: the answered ones first, then the open ones.
    placed: Vec<bool>,
    names: Vec<u128>,
    /// The first answered one that is not placed.
    first: usize,
    /// Answered ones that are placed.
    count: usize,
    set: u128,
}

/// One place of the order.
struct Frame {
    operation: Option<usize>,
    /// What may come next, the most promising last.
    candidates: Vec<(usize, State)>,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let mut sorted: Vec<&Operation> = operations.iter().collect();
        sorted.sort_by_key(|operation| operation.call);
        let (answered, mut open): (Vec<_>, Vec<_>) =
            sorted.into_iter().partition(|operation| operation.answer.is_some());
        let seen = seen_values(&answered);
        open.retain(|operation| match &operation.input {
            Input::Write(value) | Input::WriteUnder { value, .. } => seen.contains(value),
            _ => true,
        });
        let mut random = Random(operations.len() as u64);
        let mut name = || u128::from(random.draw()) << 64 | u128::from(random.draw());
        let names = operations.iter().map(|_| name()).collect();
        let placed = vec![false; operations.len()];
        Self { answered, open, placed, names, first: 0, count: 0, set: 0 }
    }

    fn run(mut self, initial: &State) -> Verdict {
        if self.answered.is_empty() {
            return Verdict::Linearizable;
        }
        let mut seen = HashSet::new();
        let mut stuck = Stuck { placed: 0, state: initial.clone(), next: self.frontier() };
        let candidates = self.candidates(initial);
        let mut frames = vec![Frame { operation: None, candidates }];
        while let Some(frame) = frames.last_mut() {
            let Some((operation, state)) = frame.candidates.pop() else {
                if let Some(operation) = frames.pop().and_then(|frame| frame.operation) {
                    self.take_back(operation);
                }
                continue;
            };
            self.place(operation);
            if self.count == self.answered.len() {
                return Verdict::Linearizable;
            }
            if !seen.insert((self.set, state.clone())) {
                self.take_back(operation);
                continue;
            }
            if seen.len() > VISITED_MAX {
                return Verdict::Undecided;
            }
            if self.count > stuck.placed {
                stuck = Stuck { placed: self.count, state: state.clone(), next: self.frontier() };
            }
            let candidates = self.candidates(&state);
            frames.push(Frame { operation: Some(operation), candidates });
        }
        Verdict::Violation(stuck)
    }

    /// The first answer that is still to be placed: what is called later comes later.
    fn bound(&self) -> u64 {
        let mut bound = u64::MAX;
        for (operation, placed) in self.answered.iter().zip(&self.placed).skip(self.first) {
            if operation.call > bound {
                break;
            }
            if let (false, Some((time, _))) = (placed, &operation.answer) {
                bound = bound.min(*time);
            }
        }
        bound
    }

    fn candidates(&self, state: &State) -> Vec<(usize, State)> {
        let bound = self.bound();
        let answered = self.answered.len();
        let mut candidates = Vec::new();
        // An effect that nobody was told of is the last thing to assume.
        for (index, operation) in self.open.iter().enumerate() {
            if operation.call > bound {
                break;
            }
            if !self.placed[answered + index]
                && let Some(next) = state.step(&operation.input, None)
            {
                candidates.push((answered + index, next));
            }
        }
        let from = candidates.len();
        for (index, operation) in self.answered.iter().enumerate().skip(self.first) {
            if operation.call > bound {
                break;
            }
            let Some((_, output)) = operation.answer.as_ref().filter(|_| !self.placed[index])
            else {
                continue;
            };
            match state.step(&operation.input, Some(output)) {
                Some(next) if operation.only_looks() => return vec![(index, next)],
                Some(next) => candidates.push((index, next)),
                None => {}
            }
        }
        candidates[from..].reverse();
        candidates
    }

    fn frontier(&self) -> Vec<Operation> {
        let bound = self.bound();
        let near = self.answered.iter().zip(&self.placed).skip(self.first);
        let near = near.take_while(|(operation, _)| operation.call <= bound);
        near.filter(|(_, placed)| !**placed).map(|(operation, _)| (*operation).clone()).collect()
    }

    fn place(&mut self, operation: usize) {
        self.placed[operation] = true;
        self.set ^= self.names[operation];
        if operation < self.answered.len() {
            self.count += 1;
            while self.first < self.answered.len() && self.placed[self.first] {
                self.first += 1;
            }
        }
    }

    fn take_back(&mut self, operation: usize) {
        self.placed[operation] = false;
        self.set ^= self.names[operation];
        if operation < self.answered.len() {
            self.count -= 1;
            self.first = self.first.min(operation);
        }
    }
}
