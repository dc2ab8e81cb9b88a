//! Changes of the group: learners, voters, removal, and who leads.
//!
//! Every change is guarded by the membership that it was decided on, so that two operators at
//! once cannot overwrite each other's work.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::errors::{
    ChangeMembershipError, ClientWriteError, Fatal, PreconditionFailed, RaftError,
};
use openraft::{BasicNode, ChangeMembers, Precondition};

use super::{RaftNode, forward, known_leader};
use crate::config::{Metrics, TypeConfig};
use crate::error::{Leader, MemberError};
use crate::metrics::Watcher;
use crate::status;

/// How long a change may take. Committing it needs a round trip and a sync; the rest is patience
/// with a leader that is being elected.
const PATIENCE: Duration = Duration::from_secs(15);

type Changes = ChangeMembers<u64, BasicNode>;

impl RaftNode {
    /// Adds a member without a vote. Returns once the membership is committed; the member then
    /// receives the log, which `matched` in [`status`](Self::status) shows.
    pub async fn add_learner(
        &self,
        node: u64,
        address: impl Into<String>,
    ) -> Result<(), MemberError> {
        let address = address.into();
        let metrics = self.metrics();
        if let Some(known) = metrics.membership_config.get_node(&node) {
            return match known.addr == address {
                true => self.still_leading(&metrics),
                false => Err(MemberError::Taken { node, address: known.addr.clone() }),
            };
        }
        let member = BasicNode { addr: address };
        let change = Changes::AddNodes([(node, member)].into());
        self.change(&metrics, change, true).await
    }

    /// Makes exactly these members the voters, in one change; the others become learners. Also
    /// finishes a change that a lost leader left half done.
    pub async fn set_voters(&self, voters: BTreeSet<u64>) -> Result<(), MemberError> {
        if voters.is_empty() {
            return Err(MemberError::NoVoter);
        }
        let metrics = self.metrics();
        let unknown = |node: &&u64| metrics.membership_config.get_node(node).is_none();
        if let Some(node) = voters.iter().find(unknown) {
            return Err(MemberError::NotMember { node: *node });
        }
        self.change(&metrics, Changes::ReplaceAllVoters(voters), true).await
    }

    /// Removes a member. The removed node is not told: stop it afterwards, and never use its ID
    /// again.
    ///
    /// A leader that is to remove itself hands the leadership over and answers
    /// [`MemberError::NotLeader`]: ask the new leader.
    pub async fn remove(&self, node: u64) -> Result<(), MemberError> {
        let metrics = self.metrics();
        let membership = &metrics.membership_config;
        if membership.get_node(&node).is_none() {
            return Err(MemberError::NotMember { node });
        }
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        if !voters.contains(&node) {
            return self.change(&metrics, Changes::RemoveNodes([node].into()), false).await;
        }
        if voters.len() == 1 {
            return Err(MemberError::NoVoter);
        }
        if node == self.identity.node && metrics.state.is_leader() {
            let leader = self.transfer_leader(None).await?;
            return Err(MemberError::NotLeader { leader: Some(leader) });
        }
        self.change(&metrics, Changes::RemoveVoters([node].into()), false).await
    }

    /// Hands the leadership over, to the voter with the longest log if none is named; returns
    /// once another node leads, and which.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<Leader, MemberError> {
        let metrics = self.metrics();
        self.still_leading(&metrics)?;
        let to = match to {
            None => successor(&metrics).ok_or(MemberError::NoSuccessor)?,
            Some(node) if node == self.identity.node => {
                return Ok(Leader { node, address: self.options.address.clone() });
            }
            Some(node) if metrics.membership_config.voter_ids().any(|voter| voter == node) => node,
            Some(node) => return Err(MemberError::NotMember { node }),
        };
        self.raft.trigger().transfer_leader(to).await.map_err(|_| MemberError::Stopped)?;
        let own = self.identity.node;
        let mut now = Watcher::of(&self.raft);
        let handed_over = now.wait_for(|now| now.current_leader.is_some_and(|to| to != own));
        match tokio::time::timeout(PATIENCE, handed_over).await {
            Ok(Some(metrics)) => status::leader(&metrics).ok_or(MemberError::Unknown),
            Ok(None) => Err(MemberError::Stopped),
            Err(_) => Err(MemberError::Unknown),
        }
    }

    fn still_leading(&self, metrics: &Metrics) -> Result<(), MemberError> {
        if metrics.state.is_leader() {
            return Ok(());
        }
        Err(MemberError::NotLeader { leader: known_leader(&self.raft) })
    }

    /// Proposes a change on top of the membership in `metrics`; returns once it is committed and
    /// no longer joint.
    async fn change(
        &self,
        metrics: &Metrics,
        change: Changes,
        retain: bool,
    ) -> Result<(), MemberError> {
        let last_membership_log_id = *metrics.membership_config.log_id();
        let guard = [Precondition::LastMembershipLogId { last_membership_log_id }];
        let change = self.raft.change_membership_if(change, retain, guard);
        match tokio::time::timeout(PATIENCE, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(err)) => Err(refusal(err)),
            Err(_) => Err(MemberError::Unknown),
        }
    }
}

/// The voter that is best placed to lead next.
pub(super) fn successor(metrics: &Metrics) -> Option<u64> {
    let replication = metrics.replication.as_ref()?;
    metrics
        .membership_config
        .voter_ids()
        .filter(|voter| *voter != metrics.id)
        .max_by_key(|voter| replication.get(voter).copied().flatten())
}

fn refusal(err: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MemberError {
    match err {
        RaftError::Fatal(Fatal::StorageError(_) | Fatal::Panicked | Fatal::Stopped) => {
            MemberError::Stopped
        }
        RaftError::APIError(err) => match err {
            ClientWriteError::ForwardToLeader(to) => MemberError::NotLeader { leader: forward(to) },
            ClientWriteError::LogEntryDiscarded(_) => MemberError::Unknown,
            ClientWriteError::PreconditionFailed(
                PreconditionFailed::LastMembershipLogIdMismatch { .. },
            ) => MemberError::Changed,
            ClientWriteError::PreconditionFailed(_) => MemberError::Unknown,
            ClientWriteError::ChangeMembershipError(err) => match err {
                ChangeMembershipError::EmptyMembership(_) => MemberError::NoVoter,
                ChangeMembershipError::LearnerNotFound(missing) => {
                    MemberError::NotMember { node: missing.node_id }
                }
                _ => MemberError::InProgress,
            },
        },
    }
}
