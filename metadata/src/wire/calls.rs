//! The calls of the service: requests, replies, and why one was not answered.

use super::proto::failure::{self, Kind};
use super::{Malformed, proto, required};
use crate::Refusal;

/// Why a member did not do what it was asked; asking another, or again, may help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    NotLeader {
        leader: Option<String>,
    },
    NotInitialised,
    Unavailable,
    /// The leader's disk has no room for commands.
    NoSpace,
}

/// A keep-alive that was decided: the session lives, or it does not.
pub(crate) type KeptAlive = Result<(), Refusal>;

impl From<Failure> for proto::Failure {
    fn from(failure: Failure) -> Self {
        let kind = match failure {
            Failure::NotLeader { leader } => {
                Kind::NotLeader(failure::NotLeader { leader: leader.unwrap_or_default() })
            }
            Failure::NotInitialised => Kind::NotInitialised(proto::Nothing {}),
            Failure::Unavailable => Kind::Unavailable(proto::Nothing {}),
            Failure::NoSpace => Kind::NoSpace(proto::Nothing {}),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Failure> for Failure {
    type Error = Malformed;

    fn try_from(failure: proto::Failure) -> Result<Self, Malformed> {
        Ok(match required(failure.kind, "a failure")? {
            Kind::NotLeader(failure::NotLeader { leader }) => {
                Self::NotLeader { leader: (!leader.is_empty()).then_some(leader) }
            }
            Kind::NotInitialised(_) => Self::NotInitialised,
            Kind::Unavailable(_) => Self::Unavailable,
            Kind::NoSpace(_) => Self::NoSpace,
        })
    }
}
