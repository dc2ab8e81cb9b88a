//! What the clients of a run asked and were told, by object, with the times.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use torus_metadata::{Answer, Applied};

use super::model::{Input, LockState, Output, State};
use super::revisions::{self, Stamp};
use super::search::{self, Operation, Verdict};
use super::watchers::Expected;
use crate::wait::Stopwatch;

/// Registers, counters and locks come anew all the time, so that no history grows too long to be
/// searched; the number says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    Register(usize),
    Counter(usize),
    Lock(usize),
    Ring,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(number) => write!(f, "register-{number}"),
            Self::Counter(number) => write!(f, "counter-{number}"),
            Self::Lock(number) => write!(f, "lock-{number}"),
            Self::Ring => f.write_str("ring"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Record {
    clock: Stopwatch,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) histories: BTreeMap<Object, Vec<Operation>>,
    pub(super) stamps: Vec<Stamp>,
    /// What the events of a revision must show.
    pub(super) expected: BTreeMap<u64, Expected>,
    /// Answers that nothing explains.
    pub(super) oddities: Vec<String>,
    pub(super) answered: u64,
    pub(super) unanswered: u64,
    /// Sessions that their owners closed, or tried to.
    pub(super) closed: BTreeSet<u64>,
}

impl Record {
    pub(super) fn start() -> Self {
        Self { clock: Stopwatch::start(), kept: Mutex::default() }
    }

    /// Nanoseconds since the start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answered(&self) -> u64 {
        self.kept().answered
    }

    pub(super) fn add(&self, object: Object, operation: Operation) {
        let mut kept = self.kept();
        match operation.answer {
            Some(_) => kept.answered += 1,
            None => kept.unanswered += 1,
        }
        // A read that was not answered says nothing.
        if operation.answer.is_some() || operation.input != Input::Read {
            kept.histories.entry(object).or_default().push(operation);
        }
    }

    /// The service may end `session` from `from` on.
    pub(super) fn may_end(&self, object: Object, session: u64, from: u64) {
        let input = Input::End { session };
        let operation = Operation { client: session, call: from, input, answer: None };
        self.kept().histories.entry(object).or_default().push(operation);
    }

    /// Notes the revision of a command's answer and what its event must show.
    pub(super) fn stamp(&self, call: u64, applied: &Applied, expected: Option<Expected>) {
        let (revision, is_change) = (applied.revision.0, expected.is_some());
        let mut kept = self.kept();
        kept.stamps.push(Stamp { call, answered: self.now(), revision, is_change });
        if let Some(expected) = expected {
            kept.expected.insert(revision, expected);
        }
    }

    /// Notes the revision at which something was read.
    pub(super) fn stamp_read(&self, call: u64, answer: &Answer) {
        let revision = match answer {
            Answer::Cluster { revision, .. }
            | Answer::Volumes { revision, .. }
            | Answer::Volume { revision, .. }
            | Answer::Ring { revision, .. }
            | Answer::Peers { revision, .. }
            | Answer::Sessions { revision, .. }
            | Answer::Group { revision, .. } => revision.0,
        };
        let answered = self.now();
        self.kept().stamps.push(Stamp { call, answered, revision, is_change: false });
    }

    pub(super) fn odd(&self, what: String) {
        self.kept().oddities.push(what);
    }
}

impl Kept {
    /// Everything that contradicts what the service promises; `ring` is what the ring was first.
    pub(super) fn violations(&self, ring: &State) -> Vec<String> {
        let mut found = self.oddities.clone();
        for (object, operations) in &self.histories {
            match search::check(&initial(*object, ring), operations) {
                Verdict::Linearizable => {}
                Verdict::Violation(stuck) => {
                    found.push(format!("{object} is not linearizable: {stuck}"));
                }
                Verdict::Undecided => found.push(format!("{object}: the search took too long")),
            }
        }
        found.extend(revisions::check(&self.stamps).err());
        found
    }

    /// How often something that a client asked was answered in this way.
    pub(super) fn count(&self, is_it: impl Fn(&Input, &Output) -> bool) -> u64 {
        let all = self.histories.values().flatten();
        let hits = all.filter(|operation| {
            operation.answer.as_ref().is_some_and(|(_, output)| is_it(&operation.input, output))
        });
        hits.count() as u64
    }
}

/// The size of a new volume, as small as can be.
pub(super) const FIRST_VALUE: u64 = 1;

fn initial(object: Object, ring: &State) -> State {
    match object {
        Object::Register(_) => State::Register(FIRST_VALUE),
        Object::Counter(_) => State::Counter(0),
        Object::Lock(_) => State::Lock(LockState { epoch: 0, holder: None, value: FIRST_VALUE }),
        Object::Ring => ring.clone(),
    }
}
