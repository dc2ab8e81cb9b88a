//! Bugs that are planted on purpose, so that it is known which bugs the simulation finds. The
//! numbers go on from those of the simulation of volumes.

use std::str::FromStr;

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A vote is answered before it is on the disk.
    UnsyncedVote,
    /// Reads are answered from what a member has applied.
    StaleRead,
    /// The fencing token of a lock is the leader's term.
    TermAsEpoch,
    /// A command that a client repeats is carried out again.
    AppliedTwice,
}

impl Mutation {
    pub(crate) const ALL: [Self; 4] =
        [Self::UnsyncedVote, Self::StaleRead, Self::TermAsEpoch, Self::AppliedTwice];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::UnsyncedVote => "M10",
            Self::StaleRead => "M11",
            Self::TermAsEpoch => "M14",
            Self::AppliedTwice => "M15",
        }
    }

    /// Whether this program can have it: most need the feature `planted`.
    pub(crate) fn is_available(self) -> bool {
        self == Self::UnsyncedVote || cfg!(feature = "planted")
    }

    /// Plants it in the members, if that is its place.
    pub(crate) fn plant(self) {
        #[cfg(feature = "planted")]
        match self {
            // The disk does that.
            Self::UnsyncedVote => {}
            Self::StaleRead => torus_metadata::plant(torus_metadata::Planted::StaleRead),
            Self::TermAsEpoch => torus_metadata::plant(torus_metadata::Planted::TermAsEpoch),
            Self::AppliedTwice => torus_metadata::plant(torus_metadata::Planted::AppliedTwice),
        }
    }
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mutation| mutation.name() == name);
        found.ok_or_else(|| format!("{name:?} is no planted bug"))
    }
}
