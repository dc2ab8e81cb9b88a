//! The calls that form and change the group, as a daemon serves them.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response as Reply, Status, Streaming};
use torus_blockstore::PeerId;
use torus_raft::Role;

use super::core::Core;
use super::lifecycle::Order;
use super::{backup, group, reign};
use crate::admin::{
    AdminClient, Applicant, Denied, GroupMember, GroupRole, GroupStatus, InitOptions, Initialised,
    Membership, Restored,
};
use crate::wire::{Failure, Malformed, proto};
use crate::{Backup, NodeId};

/// How often `init` looks whether the members vote.
const LOOK: Duration = Duration::from_millis(20);
/// A daemon that asked to join so lately is still there.
const RECENT: Duration = Duration::from_secs(3);
/// How long `init` waits for those daemons to be in.
const INIT_PATIENCE: Duration = Duration::from_secs(15);
/// How long a daemon that was invited may take to join.
const JOIN_PATIENCE: Duration = Duration::from_secs(15);
/// How long the next part of a backup may take to come.
const CHUNK_PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Admin(pub(super) Arc<Core>);

impl Admin {
    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<Membership, Denied>>) -> Order,
        patience: Duration,
    ) -> Result<Membership, Denied> {
        let (answer, result) = oneshot::channel();
        let gone = || Denied::from(Failure::Unavailable);
        self.0.orders.send(order(answer)).await.map_err(|_| gone())?;
        match tokio::time::timeout(patience, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(gone()),
        }
    }

    async fn begin(&self, options: InitOptions) -> Result<Initialised, Denied> {
        let mut expected = self.recent_applicants();
        expected.insert(self.0.options.peer);
        let place = self.order(|answer| Order::Init(options, answer), INIT_PATIENCE).await?;
        let registered = self.wait_for_peers(&expected).await;
        self.wait_for_voters(registered).await;
        let peers = u32::try_from(registered).unwrap_or(u32::MAX);
        Ok(Initialised { cluster: place.cluster, peers })
    }

    fn recent_applicants(&self) -> BTreeSet<PeerId> {
        let applicants = self.0.applicants.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = applicants.iter().filter(|(_, asked)| asked.elapsed() < RECENT);
        recent.map(|(peer, _)| *peer).collect()
    }

    /// Waits until all of `expected` are registered, or the time is over; how many are.
    async fn wait_for_peers(&self, expected: &BTreeSet<PeerId>) -> usize {
        let replica = &self.0.replica;
        let are_in = async {
            loop {
                // Before the look, so that no change falls between.
                let changed = replica.changed();
                if replica.read().state.has_peers(expected) {
                    return;
                }
                changed.await;
            }
        };
        // Being late is no failure: the number says who is missing.
        drop(tokio::time::timeout(INIT_PATIENCE, are_in).await);
        replica.read().state.peers.len()
    }

    /// Waits until as many of `members` vote as will: before that, the death of this one daemon
    /// would be the end of the group.
    async fn wait_for_voters(&self, members: usize) {
        let most = members.min(self.0.voters_max());
        let wanted = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
        let all_vote = async {
            while let Some(status) = self.0.node().map(|node| node.status()) {
                let voters = status.members.iter().filter(|member| member.role == Role::Voter);
                if voters.count() >= wanted && !status.joint && status.membership_committed {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        // Being late is no failure: the status says who does not vote.
        drop(tokio::time::timeout(INIT_PATIENCE, all_vote).await);
    }

    async fn admit(&self, applicant: Applicant) -> Result<Membership, Denied> {
        if self.0.node().is_none() {
            let mut applicants = self.0.applicants.lock().unwrap_or_else(PoisonError::into_inner);
            applicants.insert(applicant.peer, reign::now());
        }
        group::join(&self.0, applicant).await
    }

    /// Takes the bytes of a backup, and goes on with it.
    async fn restore(
        &self,
        chunks: &mut Streaming<proto::RestoreChunk>,
    ) -> Result<Restored, Denied> {
        if let Some(node) = self.0.node() {
            return Err(Denied::AlreadyMember(self.0.cluster(&node)));
        }
        let unusable = |why: &dyn std::error::Error| Denied::UnusableBackup(chain(why));
        let mut bytes = Vec::new();
        loop {
            let chunk = tokio::time::timeout(CHUNK_PATIENCE, chunks.message()).await;
            let chunk = chunk.map_err(|_| Denied::UnusableBackup("it does not come".to_owned()))?;
            let Some(chunk) = chunk.map_err(|err| unusable(&err))? else { break };
            bytes.extend_from_slice(&chunk.data);
            Backup::check_size(bytes.len()).map_err(|err| unusable(&err))?;
        }
        let backup = Backup::decode(&bytes).map_err(|err| unusable(&err))?;
        let (answer, result) = oneshot::channel();
        let gone = || Denied::from(Failure::Unavailable);
        let order = Order::Restore(Box::new(backup), answer);
        self.0.orders.send(order).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    async fn invite(&self, address: String) -> Result<Membership, Denied> {
        self.0.member()?;
        let members = self.0.members().borrow().clone();
        match AdminClient::join_cluster(&self.0.tuning.dial, &address, members).await {
            Some(result) => result,
            None => Err(Denied::Unreachable(address)),
        }
    }

    fn status(&self) -> Result<GroupStatus, Denied> {
        let node = self.0.member()?;
        let status = node.status();
        let leader = status.leader.as_ref().map(|leader| leader.node);
        let members = status.members.into_iter().map(|member| GroupMember {
            node: NodeId(member.node),
            address: member.address,
            role: match member.role {
                Role::Voter => GroupRole::Voter,
                Role::Learner => GroupRole::Learner,
            },
            leader: Some(member.node) == leader,
            matched: member.matched,
        });
        let machine = self.0.replica.read();
        Ok(GroupStatus {
            cluster: self.0.cluster(&node),
            node: NodeId(status.node),
            term: status.term,
            last_log: status.last_log.unwrap_or(0),
            applied: status.applied.unwrap_or(0),
            snapshot: status.snapshot.unwrap_or(0),
            snapshot_age_ms: status.snapshot_age_ms,
            committed: status.committed.unwrap_or(0),
            quorum_acked_ms: status.quorum_acked_ms,
            is_full: status.is_full,
            voters_max: machine.state.group.voters_max,
            revision: machine.state.revision(),
            sessions: machine.state.sessions().count() as u64,
            members: members.collect(),
            joint: status.joint,
            generation: machine.state.generation(),
            level: machine.state.level(),
            known_level: self.0.tuning.level,
        })
    }
}

#[tonic::async_trait]
impl proto::admin_server::Admin for Admin {
    async fn init(
        &self,
        request: Request<proto::InitRequest>,
    ) -> Result<Reply<proto::InitReply>, Status> {
        let options = request.into_inner().try_into().map_err(invalid)?;
        Ok(Reply::new(self.0.call(self.begin(options)).await.into()))
    }

    async fn join(
        &self,
        request: Request<proto::JoinRequest>,
    ) -> Result<Reply<proto::NodeReply>, Status> {
        let applicant = request.into_inner().try_into().map_err(invalid)?;
        Ok(Reply::new(self.0.call(self.admit(applicant)).await.into()))
    }

    async fn invite(
        &self,
        request: Request<proto::InviteRequest>,
    ) -> Result<Reply<proto::NodeReply>, Status> {
        let address = request.into_inner().address;
        Ok(Reply::new(self.0.call(self.invite(address)).await.into()))
    }

    async fn join_cluster(
        &self,
        request: Request<proto::JoinClusterRequest>,
    ) -> Result<Reply<proto::NodeReply>, Status> {
        let members = request.into_inner().members;
        let join = self.order(|answer| Order::Join(members, answer), JOIN_PATIENCE);
        Ok(Reply::new(self.0.call(join).await.into()))
    }

    async fn status(
        &self,
        _: Request<proto::Nothing>,
    ) -> Result<Reply<proto::StatusReply>, Status> {
        Ok(Reply::new(self.status().into()))
    }

    type BackupStream = BoxStream<'static, Result<proto::BackupChunk, Status>>;

    async fn backup(
        &self,
        _: Request<proto::Nothing>,
    ) -> Result<Reply<Self::BackupStream>, Status> {
        use proto::backup_chunk::Kind;
        let chunk = |kind| Ok(proto::BackupChunk { kind: Some(kind) });
        let chunks = match self.0.call(backup::make(&self.0)).await {
            Ok(chunks) => {
                ReceiverStream::new(chunks).map(move |data| chunk(Kind::Data(data))).boxed()
            }
            Err(denied) => futures::stream::iter([chunk(Kind::Failure(denied.into()))]).boxed(),
        };
        Ok(Reply::new(chunks))
    }

    async fn restore(
        &self,
        request: Request<Streaming<proto::RestoreChunk>>,
    ) -> Result<Reply<proto::RestoreReply>, Status> {
        let mut chunks = request.into_inner();
        Ok(Reply::new(self.0.call(self.restore(&mut chunks)).await.into()))
    }

    async fn remove_member(
        &self,
        request: Request<proto::RemoveMemberRequest>,
    ) -> Result<Reply<proto::NodeReply>, Status> {
        let node = NodeId(request.into_inner().node);
        Ok(Reply::new(self.0.call(group::remove(&self.0, node)).await.into()))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Reply<proto::NodeReply>, Status> {
        let to = request.into_inner().node.map(NodeId);
        Ok(Reply::new(self.0.call(group::transfer(&self.0, to)).await.into()))
    }

    async fn promote(
        &self,
        request: Request<proto::PromoteRequest>,
    ) -> Result<Reply<proto::NodeReply>, Status> {
        let proto::PromoteRequest { node, instead_of } = request.into_inner();
        let promoted = group::promote_one(&self.0, NodeId(node), instead_of.map(NodeId));
        Ok(Reply::new(self.0.call(promoted).await.into()))
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        line = format!("{line}: {deeper}");
        cause = deeper.source();
    }
    line
}

fn invalid(malformed: Malformed) -> Status {
    Status::invalid_argument(malformed.to_string())
}
