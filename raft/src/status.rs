//! What a node knows about itself and its group.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::Instant;

use crate::config::{Membership, Metrics};
use crate::error::Leader;
use crate::machine::StateMachine;

/// A view of the group from one node. Another node, or the same one later, may see another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub node: u64,
    pub address: String,
    /// Who leads, as far as this node knows.
    pub leader: Option<Leader>,
    /// A term may have several leaders, one after the other: not a fencing token.
    pub term: u64,
    /// Index of the last log entry on this node.
    pub last_log: Option<u64>,
    /// Index up to which this node knows the log to be committed by the group.
    pub committed: Option<u64>,
    /// Index up to which this node has applied the log.
    pub applied: Option<u64>,
    /// Index of the last entry in this node's snapshot.
    pub snapshot: Option<u64>,
    /// Index of the last entry that this node has removed from its log.
    pub purged: Option<u64>,
    /// Sorted by node.
    pub members: Vec<Member>,
    /// A membership change was begun and not finished. It works, but needs a majority of the old
    /// and of the new voters; [`set_voters`](crate::RaftNode::set_voters) finishes it.
    pub joint: bool,
    /// The newest membership is committed.
    pub membership_committed: bool,
    /// Milliseconds since this node's snapshot was written, by the system's clock.
    pub snapshot_age_ms: Option<u64>,
    /// The file system of the log has no room for commands.
    pub is_full: bool,
    /// On the leader: milliseconds since a quorum last acknowledged it. `None` on others, and on
    /// a leader that no quorum has acknowledged yet.
    pub quorum_acked_ms: Option<u64>,
}

/// One member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub node: u64,
    pub address: String,
    pub role: Role,
    /// On the leader: index up to which this member's log is known to equal the leader's.
    pub matched: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Voter,
    /// Receives the log and has no vote.
    Learner,
}

/// Who leads, for those that act on a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub leader: Option<Leader>,
    /// This node leads *and* has applied an entry of its own term: a quorum has confirmed it, and
    /// its state contains everything that earlier leaders committed. A leader that lost its
    /// quorum keeps this set until it hears of a successor; look at
    /// [`Status::quorum_acked_ms`] where that matters.
    pub is_self: bool,
    pub term: u64,
}

impl Status {
    pub(crate) fn of(metrics: &Metrics, address: &str) -> Self {
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let matched = |node: &u64| match metrics.replication.as_ref() {
            Some(replication) if *node != metrics.id => {
                replication.get(node).and_then(|matched| matched.as_ref().map(|id| id.index))
            }
            Some(_) => metrics.last_log_index,
            None => None,
        };
        let members = members(membership, matched);
        let index = |id: &Option<crate::config::LogId>| id.map(|id| id.index);
        let acked = if metrics.state.is_leader() && voters.iter().eq([&metrics.id]) {
            // Its own quorum; openraft has nothing to update the time for.
            Some(Duration::ZERO)
        } else {
            metrics.last_quorum_acked.map(|acked| acked.into_inner().elapsed())
        };
        Self {
            node: metrics.id,
            address: address.to_owned(),
            leader: leader(metrics),
            term: metrics.current_term,
            last_log: metrics.last_log_index,
            committed: index(&metrics.cluster_committed),
            applied: index(&metrics.last_applied),
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            snapshot_age_ms: None,
            is_full: false,
            members,
            joint: is_joint(membership),
            membership_committed: metrics.membership_config.log_id()
                == metrics.committed_membership_config.log_id(),
            quorum_acked_ms: acked.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Tells the state machine who is in the group, as an entry of the log says.
pub(crate) fn regroup(app: &mut dyn StateMachine, membership: &Membership) {
    app.regroup(&members(membership, |_| None), is_joint(membership));
}

/// Whether a change of the voters has begun and not ended.
fn is_joint(membership: &Membership) -> bool {
    membership.get_joint_config().len() > 1
}

/// The members, with what `matched` says of each.
fn members(membership: &Membership, matched: impl Fn(&u64) -> Option<u64>) -> Vec<Member> {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let member = |(node, at): (&u64, &openraft::BasicNode)| Member {
        node: *node,
        address: at.addr.clone(),
        role: if voters.contains(node) { Role::Voter } else { Role::Learner },
        matched: matched(node),
    };
    membership.nodes().map(member).collect()
}

impl Leadership {
    pub(crate) fn of(metrics: &Metrics) -> Self {
        let own = metrics.vote.leader_id;
        let is_self = metrics.state.is_leader()
            && metrics.vote.committed
            && own.node_id == metrics.id
            && metrics.last_applied.is_some_and(|applied| applied.leader_id == own);
        Self { leader: leader(metrics), is_self, term: metrics.current_term }
    }
}

/// The leader, if its address is known too.
pub(crate) fn leader(metrics: &Metrics) -> Option<Leader> {
    let node = metrics.current_leader?;
    let at = metrics.membership_config.membership().get_node(&node)?;
    Some(Leader { node, address: at.addr.clone() })
}
