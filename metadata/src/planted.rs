//! Bugs that the simulation plants to see whether it finds them: only with the feature `planted`,
//! which no program that is shipped has.

#[cfg(feature = "planted")]
use std::sync::atomic::{AtomicU8, Ordering};

/// What a member does wrong.
#[cfg_attr(not(feature = "planted"), expect(unreachable_pub, reason = "for the simulation only"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// It answers questions from what it has applied, without asking the leader.
    StaleRead = 1,
    /// The epoch of a lock is the term of the leader.
    TermAsEpoch = 2,
    /// A repeated command is carried out again.
    AppliedTwice = 3,
}

#[cfg(feature = "planted")]
static PRESENT: AtomicU8 = AtomicU8::new(0);

/// Has all members of this process do something wrong from now on.
#[cfg(feature = "planted")]
pub fn plant(bug: Planted) {
    PRESENT.store(bug as u8, Ordering::Relaxed);
}

/// Whether it is to be done wrong.
#[cfg(feature = "planted")]
pub(crate) fn is_planted(bug: Planted) -> bool {
    PRESENT.load(Ordering::Relaxed) == bug as u8
}

/// Whether it is to be done wrong: nothing is.
#[cfg(not(feature = "planted"))]
pub(crate) const fn is_planted(_: Planted) -> bool {
    false
}
