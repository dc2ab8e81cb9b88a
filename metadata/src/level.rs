//! Which commands a group may use while its members are of different versions.
//!
//! A member that meets an entry of the log which it does not know must stop. So a command that came
//! with a later level is refused until every member knows that level: the leader raises the state's
//! level when all say so, and takes nobody in from then on who is below it. The level never falls.
//!
//! | level | what it adds                                                            |
//! |------:|-------------------------------------------------------------------------|
//! |     1 | all but what follows; builds that know no levels cannot be in one group |
//! |     2 | `Command::ForgetLostVolumes`                                            |

use std::fmt;

use crate::Command;

/// A set of commands, each level with all of those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeatureLevel(pub u32);

impl FeatureLevel {
    /// What this version knows.
    pub const OWN: Self = Self(2);

    /// As a message has it, where versions from before there were levels have nothing.
    pub(crate) fn from_wire(level: u32) -> Self {
        Self(level).max(Self::default())
    }
}

impl Default for FeatureLevel {
    fn default() -> Self {
        Self(1)
    }
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Command {
    /// The level that the cluster must be at.
    pub(crate) fn level(&self) -> FeatureLevel {
        match self {
            Self::ForgetLostVolumes => FeatureLevel(2),
            _ => FeatureLevel(1),
        }
    }
}
