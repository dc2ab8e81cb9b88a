//! Bugs that the simulation plants to see whether it finds them: only with the feature `planted`,
//! which no program that is shipped has.

#[cfg(feature = "planted")]
use std::sync::atomic::{AtomicU8, Ordering};

/// A check that is left out.
#[cfg_attr(not(feature = "planted"), expect(unreachable_pub, reason = "for the simulation only"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// That the bytes of a page are those that its record names.
    PageCrc = 1,
    /// That a record is of the block, and at the place, where it was looked for.
    RecordIdentity = 2,
}

#[cfg(feature = "planted")]
static PRESENT: AtomicU8 = AtomicU8::new(0);

/// Leaves a check out from now on, or none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Planted>) {
    PRESENT.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
}

/// Whether a check is left out.
#[cfg(feature = "planted")]
pub(crate) fn is_left_out(bug: Planted) -> bool {
    PRESENT.load(Ordering::Relaxed) == bug as u8
}

/// Whether a check is left out: none is.
#[cfg(not(feature = "planted"))]
pub(crate) const fn is_left_out(_: Planted) -> bool {
    false
}
