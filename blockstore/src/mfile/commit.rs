//! Group commit: callers that arrive while a sync runs share the next one.
//!
//! One of them leads it, at once, without a timer: the more callers wait for the disk, the more
//! share its next sync.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(super) struct GroupCommit {
    rounds: Mutex<Rounds>,
    turn: Condvar,
}

#[derive(Default)]
struct Rounds {
    started: u64,
    finished: u64,
    failed: bool,
}

/// How a caller fared.
pub(super) enum Shared<E> {
    /// A round that began after the call is done.
    Done,
    /// This caller led a round, which failed.
    Led(E),
    /// A round failed, now or earlier.
    Failed,
}

impl GroupCommit {
    /// Returns when a `round` that began after this call has ended. After a round has failed none
    /// is begun.
    pub(super) fn commit<E>(&self, round: impl FnOnce() -> Result<(), E>) -> Shared<E> {
        let mut rounds = self.lock();
        let mine = rounds.started + 1;
        loop {
            if rounds.failed {
                return Shared::Failed;
            }
            if mine <= rounds.finished {
                return Shared::Done;
            }
            if rounds.started == rounds.finished {
                break;
            }
            rounds = self.turn.wait(rounds).unwrap_or_else(PoisonError::into_inner);
        }
        rounds.started += 1;
        drop(rounds);
        let mut lead = Lead { commit: self, succeeded: false };
        let led = round();
        lead.succeeded = led.is_ok();
        drop(lead);
        led.map_or_else(Shared::Led, |()| Shared::Done)
    }

    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a round also when it panics, so that nobody waits for it for ever.
struct Lead<'a> {
    commit: &'a GroupCommit,
    succeeded: bool,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut rounds = self.commit.lock();
        rounds.finished += 1;
        rounds.failed |= !self.succeeded;
        self.commit.turn.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    #[test]
    fn waiting_callers_share_a_round() {
        let commit = GroupCommit::default();
        let led = AtomicU64::new(0);
        let (running, is_running) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                commit.commit(move || {
                    running.send(()).unwrap();
                    may_go_on.recv().map_err(|_| ())
                })
            });
            is_running.recv().unwrap();
            // All of these ask while the first round runs, so it cannot serve them.
            let asked: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        commit.commit(|| {
                            led.fetch_add(1, Ordering::Relaxed);
                            Ok::<(), ()>(())
                        })
                    })
                })
                .collect();
            go_on.send(()).unwrap();
            for caller in asked {
                assert!(matches!(caller.join().unwrap(), Shared::Done));
            }
        });
        assert!((1..=8).contains(&led.load(Ordering::Relaxed)));
    }

    #[test]
    fn after_a_failure_nothing_succeeds() {
        let commit = GroupCommit::default();
        assert!(matches!(commit.commit(|| Ok::<(), u8>(())), Shared::Done));
        assert!(matches!(commit.commit(|| Err(7)), Shared::Led(7)));
        assert!(matches!(commit.commit(|| Ok::<(), u8>(())), Shared::Failed));
    }
}
