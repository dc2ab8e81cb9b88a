//! The judges of a run must refuse histories with planted faults, and agree with a slow search.

use torus_blockstore::{BlockSpec, Epoch, INodeIndex, VolumeId};
use torus_metadata::{Event, SnapshotId, Volume};

use super::model::{Input, LockState, Output, State};
use super::revisions::{self, Stamp};
use super::search::{Operation, Verdict, check};
use super::watchers::{Expected, Kept, Step};
use crate::history::Random;

fn done(call: u64, answered: u64, input: Input, output: Output) -> Operation {
    Operation { client: 0, call, input, answer: Some((answered, output)) }
}

fn open(call: u64, input: Input) -> Operation {
    Operation { client: 0, call, input, answer: None }
}

fn lock(epoch: u64, holder: Option<u64>, value: u64) -> LockState {
    LockState { epoch, holder, value }
}

#[track_caller]
fn check_that(initial: &State, history: &[Operation], fits: bool) {
    let verdict = check(initial, history);
    assert_eq!(verdict == Verdict::Linearizable, fits, "{verdict:?}");
    assert_ne!(verdict, Verdict::Undecided);
}

const REGISTER: State = State::Register(1);
const COUNTER: State = State::Counter(0);
const FREE: State = State::Lock(LockState { epoch: 0, holder: None, value: 1 });

#[test]
fn reads_during_a_write_may_see_either_value_but_not_go_back() {
    let write = done(10, 50, Input::Write(2), Output::Done);
    let read = |call, answered, value| done(call, answered, Input::Read, Output::Value(value));
    check_that(&REGISTER, &[write.clone(), read(15, 20, 1), read(25, 30, 2)], true);
    check_that(&REGISTER, &[write.clone(), read(15, 20, 2), read(25, 30, 1)], false);
    check_that(&REGISTER, &[write, read(15, 40, 2), read(25, 30, 1)], true);
}

#[test]
fn a_stale_read_is_refused() {
    let write = done(10, 20, Input::Write(2), Output::Done);
    check_that(&REGISTER, &[write, done(21, 30, Input::Read, Output::Value(1))], false);
}

#[test]
fn a_lost_update_is_refused() {
    let add = |call, answered, first| done(call, answered, Input::Add(1), Output::First(first));
    check_that(&COUNTER, &[add(10, 30, 1), add(10, 30, 1)], false);
    check_that(&COUNTER, &[add(10, 30, 2), add(10, 30, 1)], true);
    let write = done(10, 20, Input::Write(2), Output::Done);
    let later = done(30, 40, Input::Write(3), Output::Done);
    check_that(&REGISTER, &[write, later, done(50, 60, Input::Read, Output::Value(2))], false);
}

#[test]
fn a_command_that_was_applied_twice_is_refused() {
    let add = done(10, 20, Input::Add(5), Output::First(1));
    check_that(&COUNTER, &[add, done(30, 40, Input::Read, Output::Value(10))], false);
    let swap = done(10, 20, Input::Swap { version: 2, weight: 7 }, Output::Done);
    let again = done(30, 40, Input::Swap { version: 2, weight: 8 }, Output::Done);
    check_that(&State::Ring { version: 1, weight: 1 }, &[swap, again], false);
}

#[test]
fn what_was_never_answered_may_happen_late_or_never_but_once() {
    let read = |call, value| done(call, call + 1, Input::Read, Output::Value(value));
    let write = open(10, Input::Write(2));
    check_that(&REGISTER, &[write.clone(), read(20, 1), read(30, 1)], true);
    check_that(&REGISTER, &[write.clone(), read(20, 1), read(30, 2)], true);
    check_that(&REGISTER, &[write.clone(), read(20, 2), read(30, 1)], false);
    check_that(&REGISTER, &[read(5, 2), write], false);
    let add = open(10, Input::Add(5));
    check_that(&COUNTER, &[add.clone(), read(20, 5), read(30, 10)], false);
    check_that(&COUNTER, &[add.clone(), open(10, Input::Add(3)), read(20, 5), read(30, 8)], true);
}

#[test]
fn a_swap_that_is_refused_must_have_come_too_late() {
    let ring = State::Ring { version: 1, weight: 1 };
    let swap = |call, output| done(call, call + 5, Input::Swap { version: 2, weight: 7 }, output);
    check_that(&ring, &[swap(10, Output::Done), swap(20, Output::RingIsAt(2))], true);
    check_that(&ring, &[swap(10, Output::RingIsAt(1))], false);
    check_that(&ring, &[swap(10, Output::Done), swap(20, Output::RingIsAt(3))], false);
}

#[test]
fn a_lock_has_one_holder_and_its_epochs_fence() {
    let take = |call, session, epoch| {
        done(call, call + 5, Input::Lock { session }, Output::Granted { epoch })
    };
    let write =
        |call, epoch, output| done(call, call + 5, Input::WriteUnder { epoch, value: 9 }, output);
    let end = |call, session| open(call, Input::End { session });
    check_that(&FREE, &[take(10, 1, 1), take(20, 2, 2)], false);
    check_that(&FREE, &[take(10, 1, 1), end(12, 1), take(20, 2, 2)], true);
    // The session's time was not over.
    check_that(&FREE, &[take(10, 1, 1), end(40, 1), take(20, 2, 2)], false);
    let fenced = write(30, 1, Output::Stale { current: 2 });
    check_that(&FREE, &[take(10, 1, 1), end(12, 1), take(20, 2, 2), fenced], true);
    let through = write(30, 1, Output::Done);
    check_that(&FREE, &[take(10, 1, 1), end(12, 1), take(20, 2, 2), through], false);
    let held = done(30, 35, Input::Lock { session: 2 }, Output::HeldBy { session: 1 });
    check_that(&FREE, &[take(10, 1, 1), held.clone()], true);
    let unlock = done(20, 25, Input::Unlock { epoch: 1 }, Output::Done);
    check_that(&FREE, &[take(10, 1, 1), unlock, held], false);
    let read = done(30, 35, Input::Read, Output::Lock(lock(1, Some(1), 1)));
    check_that(&FREE, &[take(10, 1, 1), read], true);
}

/// Whether any order fits: all of them are tried.
fn slow_check(state: &State, left: &[Operation]) -> bool {
    if left.iter().all(|operation| operation.answer.is_none()) {
        return true;
    }
    let first = left.iter().filter_map(|operation| operation.answer.as_ref());
    let bound = first.map(|(time, _)| *time).min().unwrap_or(u64::MAX);
    (0..left.len()).any(|index| {
        let operation = &left[index];
        let output = operation.answer.as_ref().map(|(_, output)| output);
        let mut rest = left.to_vec();
        rest.remove(index);
        operation.call <= bound
            && state.step(&operation.input, output).is_some_and(|next| slow_check(&next, &rest))
    })
}

#[test]
fn short_random_histories_are_judged_as_by_trying_every_order() {
    let mut random = Random(5);
    let (mut fit, mut unfit) = (0, 0);
    for _ in 0..20_000 {
        let (counts, state) = match random.within(0..2) {
            0 => (false, REGISTER),
            _ => (true, COUNTER),
        };
        let history: Vec<_> = (0..random.within(2..7))
            .map(|_| {
                let call = random.within(0..20);
                let value = random.within(1..4);
                let (input, output) = match (counts, random.within(0..2)) {
                    (_, 0) => (Input::Read, Output::Value(value)),
                    (false, _) => (Input::Write(value), Output::Done),
                    (true, _) => (Input::Add(1), Output::First(value)),
                };
                if input != Input::Read && random.within(0..4) == 0 {
                    return open(call, input);
                }
                done(call, call + random.within(1..12), input, output)
            })
            .collect();
        let expected = slow_check(&state, &history);
        if expected {
            fit += 1
        } else {
            unfit += 1
        }
        assert_eq!(check(&state, &history) == Verdict::Linearizable, expected, "{history:#?}");
    }
    assert!(fit > 500 && unfit > 500, "{fit} fit, {unfit} do not");
}

#[test]
fn revisions_follow_real_time() {
    let stamp = |call, answered, revision, is_change| Stamp { call, answered, revision, is_change };
    let change = stamp(10, 20, 5, true);
    assert_eq!(revisions::check(&[change, stamp(15, 30, 4, false)]), Ok(()));
    assert_eq!(revisions::check(&[change, stamp(21, 30, 5, false)]), Ok(()));
    assert!(revisions::check(&[change, stamp(21, 30, 4, false)]).is_err());
    assert!(revisions::check(&[change, stamp(21, 30, 5, true)]).is_err());
    assert!(revisions::check(&[change, stamp(15, 30, 5, true)]).is_err());
}

/// Watched by one who saw revisions 1 to 4 in these steps, and by another who saw all.
#[track_caller]
fn check_watch(steps: &[Step], fits: bool) {
    let ended = |revision| vec![Event::SessionEnded(torus_metadata::SessionId(revision))];
    let events = (1..=4).map(|revision| (revision, ended(revision))).collect();
    let kept = Kept { events, steps: vec![steps.to_vec()], ..Kept::default() };
    let found = kept.violations(&[].into(), 4);
    assert_eq!(found.is_empty(), fits, "{found:?}");
}

#[test]
fn watches_are_ordered_unique_and_without_gaps() {
    use Step::{Compacted, Events, From, Progress};
    check_watch(&[From(0), Events(1), Events(2), Progress(2), Events(3), Events(4)], true);
    check_watch(&[From(0), Events(1), From(1), Events(2), Events(3), Events(4)], true);
    check_watch(&[From(0), Events(1), Compacted, From(3), Events(4)], true);
    check_watch(&[From(0), Events(1), Events(3), Events(4)], false);
    check_watch(&[From(0), Events(1), Events(1), Events(2), Events(3), Events(4)], false);
    check_watch(&[From(0), Events(2), Events(1), Events(3), Events(4)], false);
    check_watch(&[From(0), Events(1), Progress(2), Events(3), Events(4)], false);
    check_watch(&[From(0), Events(1), Events(2), From(1), Events(3), Events(4)], false);
    check_watch(&[From(0), Events(1), Events(2), Events(3)], false);
}

#[test]
fn what_was_answered_is_what_watchers_see() {
    let id = VolumeId::new(3).unwrap();
    let volume = Volume {
        id,
        name: "disk".to_owned(),
        size: 70,
        block_spec: BlockSpec::default(),
        inode_index: INodeIndex(0),
        head: None,
        windows: Vec::new(),
        epoch: Epoch(0),
        lock: None,
        snapshots_minted: SnapshotId(0),
        snapshots: Vec::new(),
        parent: None,
        retired: Vec::new(),
        asks: Vec::new(),
        answers: Vec::new(),
        is_clean: true,
    };
    let events = [(1, vec![Event::VolumeChanged(volume)])].into();
    let kept = Kept { events, ..Kept::default() };
    let expected = |revision, size| [(revision, Expected::Size { volume: id, size })].into();
    assert_eq!(kept.violations(&expected(1, 70), 9), Vec::<String>::new());
    assert_eq!(kept.violations(&expected(1, 71), 9).len(), 1);
    assert_eq!(kept.violations(&expected(2, 70), 9).len(), 1);
}
