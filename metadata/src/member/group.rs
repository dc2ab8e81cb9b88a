//! Changes of the group, on the leader: takes daemons in, lets them vote when they have the log,
//! and lets members go. One change at a time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use torus_raft::{MemberError, RaftNode, Role, Status};

use super::core::{Core, not_leader};
use super::promotion::Electorate;
use crate::admin::{AdminClient, Applicant, Denied, Membership};
use crate::machine::Proposal;
use crate::wire::Failure;
use crate::{Command, Error, MetadataService, NodeId, Outcome};

/// How often the leader looks whether somebody can be promoted.
const EVERY: Duration = Duration::from_millis(300);
/// A learner this near to the end of the log has it.
const LAG_MAX: u64 = 100;
/// How often a change is tried again that met another one.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps the number of voters right while this member leads.
pub(super) async fn tend(core: Arc<Core>, node: Arc<RaftNode>) {
    let mut leadership = node.leadership();
    loop {
        if leadership.wait_for(|now| now.is_self).await.is_err() {
            return;
        }
        tokio::time::sleep(EVERY).await;
        if let Ok(_turn) = core.turn.acquire().await {
            promote(&core, &node).await;
            raise_level(&core, &node).await;
        }
    }
}

async fn promote(core: &Core, node: &RaftNode) {
    let status = node.status();
    if !status.membership_committed && !status.joint {
        return;
    }
    let electorate = electorate(core, &status).await;
    // A lost leader may have left a change half done; the same voters again finish it.
    let unfinished = status.joint.then(|| electorate.voters.clone());
    let Some(voters) = electorate.next().or(unfinished) else { return };
    match node.set_voters(voters.clone()).await {
        Ok(()) => tracing::info!(?voters, "the group has these voters now"),
        Err(err) => tracing::debug!(?voters, error = %err, "the voters were not changed"),
    }
}

/// Lets the cluster use the commands that all its members know, if they are more than before.
async fn raise_level(core: &Core, node: &RaftNode) {
    let present = core.replica.read().state.level();
    let mut common = core.tuning.level;
    for member in node.status().members {
        if common <= present {
            return;
        }
        if member.node != node.identity().node {
            match AdminClient::probe(&core.tuning.dial, &member.address).await {
                Some(Ok(found)) if found.node == NodeId(member.node) => {
                    common = common.min(found.known_level);
                }
                // What it knows is not known.
                _ => return,
            }
        }
    }
    // Those taken in later have to know as much: `join` waits for this turn.
    if common > present && core.propose(node, Proposal::RaiseLevel(common)).await.is_ok() {
        tracing::info!(level = %common, "all members know the commands of this feature level");
    }
}

/// Who votes and who could. A learner is only counted when it answers now: promoting a dead one
/// could leave the group without a majority.
async fn electorate(core: &Core, status: &Status) -> Electorate {
    let of_role = |role| status.members.iter().filter(move |member| member.role == role);
    let last = status.last_log.unwrap_or(0);
    let mut electorate = Electorate {
        leader: status.node,
        voters: of_role(Role::Voter).map(|member| member.node).collect(),
        ready: BTreeSet::new(),
        matched: of_role(Role::Voter).filter_map(|it| Some((it.node, it.matched?))).collect(),
        voters_max: core.voters_max(),
    };
    let near: Vec<_> = of_role(Role::Learner)
        .filter(|learner| {
            learner.matched.is_some_and(|matched| matched.saturating_add(LAG_MAX) >= last)
        })
        .collect();
    if near.len() >= electorate.wants().min(2) {
        for learner in near {
            if is_ready(core, learner, last).await {
                electorate.ready.insert(learner.node);
            }
        }
    }
    electorate
}

/// Whether the member answers and has the log up to about `last`.
async fn is_ready(core: &Core, member: &torus_raft::Member, last: u64) -> bool {
    let found = AdminClient::probe(&core.tuning.dial, &member.address).await;
    found.and_then(Result::ok).is_some_and(|found| {
        found.node == NodeId(member.node) && found.applied.saturating_add(LAG_MAX) >= last
    })
}

/// Gives a learner a vote, and finishes a change that was interrupted.
pub(super) async fn promote_one(
    core: &Core,
    id: NodeId,
    instead_of: Option<NodeId>,
) -> Result<Membership, Denied> {
    let node = core.member()?;
    leads(&node)?;
    let _turn = core.turn.acquire().await.map_err(|_| Failure::Unavailable)?;
    let status = node.status();
    let of = |id: NodeId| status.members.iter().find(|member| member.node == id.0);
    let member = of(id).ok_or(Denied::NoSuchMember(id))?;
    let is_voter = member.role == Role::Voter;
    // Before anything changes.
    if !is_voter && !is_ready(core, member, status.last_log.unwrap_or(0)).await {
        return Err(Denied::NotReady(id));
    }
    if let Some(other) = instead_of {
        match of(other).map(|other| other.role) {
            None => return Err(Denied::NoSuchMember(other)),
            // It was done before.
            Some(Role::Learner) if is_voter && !status.joint => return Ok(core.place(&node, id)),
            Some(Role::Learner) if is_voter => {}
            Some(Role::Learner) => return Err(Denied::NotAVoter(other)),
            Some(Role::Voter) => {}
        }
        if other.0 == status.node {
            // The next leader does it.
            return Err(leave_to_the_next(&node).await);
        }
    }
    let electorate = electorate(core, &status).await;
    let mut silent = BTreeSet::new();
    for voter in status.members.iter().filter(|it| it.role == Role::Voter && !is_voter) {
        if voter.node != status.node && !lives(core, voter).await {
            silent.insert(voter.node);
        }
    }
    let voters = electorate.with(id.0, instead_of.map(|other| other.0), &silent);
    let voters = voters.ok_or_else(|| {
        let voters = u32::try_from(electorate.voters.len()).unwrap_or(u32::MAX);
        // Where both vote already, one gives its vote up.
        let change = if is_voter { -1 } else { 1 };
        Denied::EvenVoters(voters.saturating_add_signed(change))
    })?;
    if voters != electorate.voters || status.joint {
        insist(|| node.set_voters(voters.clone())).await?;
        tracing::info!(?voters, "the group has these voters now");
    }
    Ok(core.place(&node, id))
}

/// Takes a daemon in: a new identity, then a place as a learner.
pub(super) async fn join(core: &Arc<Core>, applicant: Applicant) -> Result<Membership, Denied> {
    let node = core.member()?;
    leads(&node)?;
    let namesakes = node.status().members;
    for other in namesakes.iter().filter(|member| member.address == applicant.address) {
        if lives(core, other).await {
            return Err(Denied::AddressTaken(applicant.address));
        }
    }
    knows_enough(core, &applicant)?;
    let known = core.replica.read().state.nodes.get(&applicant.peer).copied();
    let allocate = Command::AllocateNode { peer: applicant.peer };
    let id = match core.client().execute(allocate).await {
        Ok(applied) => match applied.outcome {
            Outcome::Node(id) => id,
            _ => return Err(Failure::Unavailable.into()),
        },
        Err(Error::Refused(refusal)) => return Err(Denied::Refused(refusal)),
        Err(_) => return Err(Failure::Unavailable.into()),
    };
    let turn = core.turn.acquire().await.map_err(|_| Failure::Unavailable)?;
    // Looked at again now that nobody can raise it.
    knows_enough(core, &applicant)?;
    insist(|| node.add_learner(id.0, applicant.address.clone())).await?;
    tracing::info!(peer = %applicant.peer, node = %id, address = applicant.address, "taken in");
    drop(turn);
    // Whoever was this peer, or listened at this address, has lost its identity and is no more. If
    // that fails, the newcomer asks again, and this is done then.
    for old in node.status().members {
        let same = Some(NodeId(old.node)) == known || old.address == applicant.address;
        if same && old.node != id.0 {
            tracing::info!(node = old.node, "removing the member that the newcomer was before");
            retire(core, NodeId(old.node)).await?;
        }
    }
    Ok(core.place(&node, id))
}

/// Refuses a daemon that could meet commands which it does not know.
fn knows_enough(core: &Core, applicant: &Applicant) -> Result<(), Denied> {
    let (known, needed) = (applicant.level, core.replica.read().state.level());
    if known < needed { Err(Denied::Level { known, needed }) } else { Ok(()) }
}

/// Whether it is this member, or answers by its name.
async fn lives(core: &Core, member: &torus_raft::Member) -> bool {
    if member.address == core.options.address {
        return true;
    }
    let found = AdminClient::probe(&core.tuning.dial, &member.address).await;
    matches!(found, Some(Ok(status)) if status.node == NodeId(member.node))
}

/// Lets a member go that has lost its folder. The others keep their votes, also in an even number:
/// each of them has what was committed, and the newcomer will make the number odd again.
async fn retire(core: &Core, id: NodeId) -> Result<(), Denied> {
    let node = core.member()?;
    leads(&node)?;
    let _turn = core.turn.acquire().await.map_err(|_| Failure::Unavailable)?;
    let members = node.status().members;
    let voter = |member: &&torus_raft::Member| member.role == Role::Voter;
    let mut voters: BTreeSet<u64> = members.iter().filter(voter).map(|m| m.node).collect();
    if voters.remove(&id.0) {
        insist(|| node.set_voters(voters.clone())).await?;
    }
    insist(|| node.remove(id.0)).await?;
    Ok(())
}

/// Lets a member go; if it has a vote, the others go on in an odd number.
pub(super) async fn remove(core: &Core, id: NodeId) -> Result<Membership, Denied> {
    let node = core.member()?;
    leads(&node)?;
    let _turn = core.turn.acquire().await.map_err(|_| Failure::Unavailable)?;
    let status = node.status();
    let member = status.members.iter().find(|member| member.node == id.0);
    let member = member.ok_or(Denied::NoSuchMember(id))?;
    if member.role == Role::Voter {
        if id.0 == status.node {
            // The next leader removes this one.
            return Err(leave_to_the_next(&node).await);
        }
        let mut electorate = electorate(core, &status).await;
        electorate.ready.remove(&id.0);
        let voters = electorate.without(id.0);
        insist(|| node.set_voters(voters.clone())).await?;
    }
    insist(|| node.remove(id.0)).await?;
    tracing::info!(node = %id, "removed from the group");
    Ok(core.place(&node, id))
}

/// Hands the leadership over; answers who leads then.
pub(super) async fn transfer(core: &Core, to: Option<NodeId>) -> Result<Membership, Denied> {
    let node = core.member()?;
    leads(&node)?;
    let _turn = core.turn.acquire().await.map_err(|_| Failure::Unavailable)?;
    let is_member = |id: u64| node.status().members.iter().any(|member| member.node == id);
    let leader = node.transfer_leader(to.map(|node| node.0)).await.map_err(|err| match err {
        MemberError::NotMember { node: id } if is_member(id) => Denied::NotAVoter(NodeId(id)),
        err => denied(&node, err),
    })?;
    Ok(core.place(&node, NodeId(leader.node)))
}

/// Hands the leadership over; the denial names who leads then.
async fn leave_to_the_next(node: &RaftNode) -> Denied {
    match node.transfer_leader(None).await {
        Ok(leader) => not_leader(node, Some(leader)).into(),
        Err(err) => denied(node, err),
    }
}

fn leads(node: &RaftNode) -> Result<(), Failure> {
    let leadership = node.leadership().borrow().clone();
    if leadership.is_self { Ok(()) } else { Err(not_leader(node, leadership.leader)) }
}

/// Makes a change, again if another came between.
async fn insist<F>(change: impl Fn() -> F) -> Result<(), Denied>
where
    F: Future<Output = Result<(), MemberError>>,
{
    let mut attempts = 0;
    loop {
        match change().await {
            Ok(()) => return Ok(()),
            Err(MemberError::InProgress | MemberError::Changed) if attempts < ATTEMPTS => {
                attempts += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(MemberError::NotLeader { leader }) => {
                let leader = leader.map(|leader| leader.address);
                return Err(Failure::NotLeader { leader }.into());
            }
            Err(err) => return Err(reason(&err)),
        }
    }
}

fn denied(node: &RaftNode, err: MemberError) -> Denied {
    match err {
        MemberError::NotLeader { leader } => not_leader(node, leader).into(),
        err => reason(&err),
    }
}

fn reason(err: &MemberError) -> Denied {
    match err {
        MemberError::NotMember { node } => Denied::NoSuchMember(NodeId(*node)),
        MemberError::NoVoter | MemberError::NoSuccessor => Denied::LastVoter,
        err => {
            tracing::warn!(error = %err, "the group was not changed");
            Failure::Unavailable.into()
        }
    }
}
