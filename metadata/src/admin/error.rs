//! What goes wrong when the group is formed or changed.

use torus_blockstore::PeerId;
use uuid::Uuid;

use crate::wire::Failure;
use crate::{FeatureLevel, NodeId, Refusal};

/// A failed call of a daemon's administration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// No daemon answered, or the group has no leader; waiting may help.
    #[error("the daemon at {tried} does not answer")]
    Unavailable {
        tried: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The daemon was asked to begin a group, and may have done it.
    #[error(
        "the daemon at {address} did not say in time what came of it: look with 'torusctl status', and \
         repeat the command only if that daemon is not part of a cluster"
    )]
    OutcomeUnknown {
        address: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The daemon waits to be initialised or to join a cluster.
    #[error("the daemon at {address} is not part of a cluster yet; run 'torusctl init'")]
    NotInitialised { address: String },
    #[error("the daemon at {address} belongs to cluster {cluster} already")]
    AlreadyMember { address: String, cluster: Uuid },
    /// The daemon was told to join another cluster, so it cannot begin one.
    #[error("the daemon at {address} is joining the cluster of {members}")]
    Joining { address: String, members: String },
    #[error("there is no member {0} in the group")]
    NoSuchMember(NodeId),
    #[error("member {0} has no vote")]
    NotAVoter(NodeId),
    #[error("the group would have no voter left")]
    LastVoter,
    #[error("member {0} has not caught up with the log yet, or does not answer")]
    NotReady(NodeId),
    /// An even number of voters tolerates no more failures than the odd one below it.
    #[error(
        "there would be {voters} voters, and an even number is of no use: name one that gives up its \
         vote with --instead-of, or add another member, so that both get one"
    )]
    EvenVoters { voters: u32 },
    /// Two daemons were given the same address.
    #[error("another member of the cluster listens at {address}")]
    AddressTaken { address: String },
    /// The daemon that was to be invited is down or elsewhere.
    #[error("the daemon at {address} cannot be reached by the cluster")]
    Unreachable { address: String },
    #[error("the daemon at {address} cannot use the backup: {why}")]
    UnusableBackup { address: String, why: String },
    /// Its blocks would be lost to the cluster that they are of.
    #[error(
        "the daemon at {address} has blocks of cluster {found}, which is another one than the backup's"
    )]
    OtherCluster { address: String, found: Uuid },
    #[error(
        "the daemon that is to join knows feature level {known}, and the cluster is at {needed} \
         already: it needs a newer version of Torus"
    )]
    Level { known: FeatureLevel, needed: FeatureLevel },
    /// The state machine's answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An answer that this version does not understand.
    #[error("the daemon sent an answer that this version does not understand: {what}")]
    Protocol { what: &'static str },
}

/// Why a daemon did not do what it was asked, as it says it itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    Failure(Failure),
    Refused(Refusal),
    AlreadyMember(Uuid),
    Joining(String),
    NoSuchMember(NodeId),
    NotAVoter(NodeId),
    LastVoter,
    NotReady(NodeId),
    EvenVoters(u32),
    Unreachable(String),
    AddressTaken(String),
    UnusableBackup(String),
    OtherCluster(Uuid),
    Level { known: FeatureLevel, needed: FeatureLevel },
}

impl From<Failure> for Denied {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Denied {
    /// The error for the caller of the daemon at `address`.
    pub(crate) fn at(self, address: &str) -> AdminError {
        let address = address.to_owned();
        match self {
            Self::Failure(Failure::NotInitialised) => AdminError::NotInitialised { address },
            Self::Failure(Failure::NotLeader { .. } | Failure::Unavailable | Failure::NoSpace) => {
                AdminError::Unavailable { tried: address, source: None }
            }
            Self::Refused(refusal) => AdminError::Refused(refusal),
            Self::AlreadyMember(cluster) => AdminError::AlreadyMember { address, cluster },
            Self::Joining(members) => AdminError::Joining { address, members },
            Self::NoSuchMember(node) => AdminError::NoSuchMember(node),
            Self::NotAVoter(node) => AdminError::NotAVoter(node),
            Self::LastVoter => AdminError::LastVoter,
            Self::NotReady(node) => AdminError::NotReady(node),
            Self::EvenVoters(voters) => AdminError::EvenVoters { voters },
            Self::Unreachable(address) => AdminError::Unreachable { address },
            Self::AddressTaken(address) => AdminError::AddressTaken { address },
            Self::UnusableBackup(why) => AdminError::UnusableBackup { address, why },
            Self::OtherCluster(found) => AdminError::OtherCluster { address, found },
            Self::Level { known, needed } => AdminError::Level { known, needed },
        }
    }
}

/// A daemon's request to be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applicant {
    pub(crate) peer: PeerId,
    pub(crate) address: String,
    pub(crate) level: FeatureLevel,
}
