//! The calls that form and change the group.

use uuid::Uuid;

use super::proto::admin_failure::{self, Kind};
use super::{Malformed, all, peer_id, proto, required};
use crate::admin::{
    Applicant, Denied, GroupMember, GroupRole, GroupStatus, InitOptions, Initialised, Membership,
    Restored,
};
use crate::wire::kept::block_spec;
use crate::{FeatureLevel, NodeId, Revision};

impl From<Denied> for proto::AdminFailure {
    fn from(denied: Denied) -> Self {
        let kind = match denied {
            Denied::Failure(failure) => Kind::Failure(failure.into()),
            Denied::Refused(refusal) => Kind::Refusal(refusal.into()),
            Denied::AlreadyMember(cluster) => Kind::AlreadyMember(cluster.as_bytes().to_vec()),
            Denied::Joining(members) => Kind::Joining(members),
            Denied::NoSuchMember(node) => Kind::NoSuchMember(node.0),
            Denied::NotAVoter(node) => Kind::NotAVoter(node.0),
            Denied::LastVoter => Kind::LastVoter(proto::Nothing {}),
            Denied::NotReady(node) => Kind::NotReady(node.0),
            Denied::EvenVoters(voters) => Kind::EvenVoters(voters),
            Denied::Unreachable(address) => Kind::Unreachable(address),
            Denied::AddressTaken(address) => Kind::AddressTaken(address),
            Denied::UnusableBackup(why) => Kind::UnusableBackup(why),
            Denied::OtherCluster(found) => Kind::OtherCluster(found.as_bytes().to_vec()),
            Denied::Level { known, needed } => {
                Kind::Level(admin_failure::Level { known: known.0, needed: needed.0 })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::AdminFailure> for Denied {
    type Error = Malformed;

    fn try_from(failure: proto::AdminFailure) -> Result<Self, Malformed> {
        Ok(match required(failure.kind, "a failure")? {
            Kind::Failure(failure) => Self::Failure(failure.try_into()?),
            Kind::Refusal(refusal) => Self::Refused(refusal.try_into()?),
            Kind::AlreadyMember(cluster) => Self::AlreadyMember(cluster_id(&cluster)?),
            Kind::Joining(members) => Self::Joining(members),
            Kind::NoSuchMember(node) => Self::NoSuchMember(NodeId(node)),
            Kind::NotAVoter(node) => Self::NotAVoter(NodeId(node)),
            Kind::LastVoter(_) => Self::LastVoter,
            Kind::NotReady(node) => Self::NotReady(NodeId(node)),
            Kind::EvenVoters(voters) => Self::EvenVoters(voters),
            Kind::Unreachable(address) => Self::Unreachable(address),
            Kind::AddressTaken(address) => Self::AddressTaken(address),
            Kind::UnusableBackup(why) => Self::UnusableBackup(why),
            Kind::OtherCluster(found) => Self::OtherCluster(cluster_id(&found)?),
            Kind::Level(admin_failure::Level { known, needed }) => {
                Self::Level { known: FeatureLevel(known), needed: FeatureLevel(needed) }
            }
        })
    }
}

impl From<InitOptions> for proto::InitRequest {
    fn from(options: InitOptions) -> Self {
        Self {
            block_size: options.block_size,
            block_spec: options.block_spec.to_string(),
            replication: options.replication,
            ring_kind: proto::RingKind::from(options.ring).into(),
            voters_max: options.voters_max.unwrap_or(0),
        }
    }
}

impl TryFrom<proto::InitRequest> for InitOptions {
    type Error = Malformed;

    fn try_from(request: proto::InitRequest) -> Result<Self, Malformed> {
        Ok(Self {
            block_size: request.block_size,
            block_spec: block_spec(&request.block_spec)?,
            replication: request.replication,
            ring: request.ring_kind().try_into()?,
            voters_max: (request.voters_max != 0).then_some(request.voters_max),
        })
    }
}

impl From<Result<Initialised, Denied>> for proto::InitReply {
    fn from(result: Result<Initialised, Denied>) -> Self {
        use proto::init_reply::{self, Kind};
        let kind = match result {
            Ok(Initialised { cluster, peers }) => Kind::Initialised(init_reply::Initialised {
                cluster: cluster.as_bytes().to_vec(),
                peers,
            }),
            Err(denied) => Kind::Failure(denied.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::InitReply> for Result<Initialised, Denied> {
    type Error = Malformed;

    fn try_from(reply: proto::InitReply) -> Result<Self, Malformed> {
        use proto::init_reply::Kind;
        Ok(match required(reply.kind, "the answer to init")? {
            Kind::Initialised(done) => {
                Ok(Initialised { cluster: cluster_id(&done.cluster)?, peers: done.peers })
            }
            Kind::Failure(failure) => Err(failure.try_into()?),
        })
    }
}

impl From<Applicant> for proto::JoinRequest {
    fn from(applicant: Applicant) -> Self {
        Self {
            peer: applicant.peer.encode().to_vec(),
            address: applicant.address,
            level: applicant.level.0,
        }
    }
}

impl TryFrom<proto::JoinRequest> for Applicant {
    type Error = Malformed;

    fn try_from(request: proto::JoinRequest) -> Result<Self, Malformed> {
        let level = FeatureLevel::from_wire(request.level);
        Ok(Self { peer: peer_id(&request.peer)?, address: request.address, level })
    }
}

impl From<Result<Membership, Denied>> for proto::NodeReply {
    fn from(result: Result<Membership, Denied>) -> Self {
        use proto::node_reply::{self, Kind};
        let kind = match result {
            Ok(Membership { cluster, group, node }) => {
                let [cluster, group] = [cluster, group].map(|name| name.as_bytes().to_vec());
                Kind::Node(node_reply::Node { cluster, group, node: node.0 })
            }
            Err(denied) => Kind::Failure(denied.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::NodeReply> for Result<Membership, Denied> {
    type Error = Malformed;

    fn try_from(reply: proto::NodeReply) -> Result<Self, Malformed> {
        use proto::node_reply::Kind;
        Ok(match required(reply.kind, "the answer of a member")? {
            Kind::Node(place) => {
                let cluster = cluster_id(&place.cluster)?;
                let group = match place.group.is_empty() {
                    true => cluster,
                    false => cluster_id(&place.group)?,
                };
                Ok(Membership { cluster, group, node: NodeId(place.node) })
            }
            Kind::Failure(failure) => Err(failure.try_into()?),
        })
    }
}

impl From<GroupMember> for proto::Member {
    fn from(member: GroupMember) -> Self {
        let role = match member.role {
            GroupRole::Voter => proto::Role::Voter,
            GroupRole::Learner => proto::Role::Learner,
        };
        Self {
            node: member.node.0,
            address: member.address,
            role: role.into(),
            leader: member.leader,
            matched: member.matched,
        }
    }
}

impl TryFrom<proto::Member> for GroupMember {
    type Error = Malformed;

    fn try_from(member: proto::Member) -> Result<Self, Malformed> {
        let role = match member.role() {
            proto::Role::Voter => GroupRole::Voter,
            proto::Role::Learner => GroupRole::Learner,
            proto::Role::Unspecified => return Err(Malformed { what: "a member's role" }),
        };
        Ok(Self {
            node: NodeId(member.node),
            address: member.address,
            role,
            leader: member.leader,
            matched: member.matched,
        })
    }
}

impl From<Result<GroupStatus, Denied>> for proto::StatusReply {
    fn from(result: Result<GroupStatus, Denied>) -> Self {
        use proto::status_reply::{self, Kind};
        let kind = match result {
            Ok(status) => Kind::Status(status_reply::Status {
                cluster: status.cluster.as_bytes().to_vec(),
                node: status.node.0,
                term: status.term,
                last_log: status.last_log,
                applied: status.applied,
                snapshot: status.snapshot,
                revision: status.revision.0,
                sessions: status.sessions,
                members: status.members.into_iter().map(Into::into).collect(),
                joint: status.joint,
                generation: status.generation,
                level: status.level.0,
                known_level: status.known_level.0,
                committed: status.committed,
                quorum_acked_ms: status.quorum_acked_ms,
                snapshot_age_ms: status.snapshot_age_ms,
                voters_max: status.voters_max,
                is_full: status.is_full,
            }),
            Err(denied) => Kind::Failure(denied.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::StatusReply> for Result<GroupStatus, Denied> {
    type Error = Malformed;

    fn try_from(reply: proto::StatusReply) -> Result<Self, Malformed> {
        use proto::status_reply::Kind;
        Ok(match required(reply.kind, "a member's status")? {
            Kind::Status(status) => Ok(GroupStatus {
                cluster: cluster_id(&status.cluster)?,
                node: NodeId(status.node),
                term: status.term,
                last_log: status.last_log,
                applied: status.applied,
                snapshot: status.snapshot,
                revision: Revision(status.revision),
                sessions: status.sessions,
                members: all(status.members)?,
                joint: status.joint,
                generation: status.generation,
                level: FeatureLevel::from_wire(status.level),
                known_level: FeatureLevel::from_wire(status.known_level),
                committed: status.committed,
                quorum_acked_ms: status.quorum_acked_ms,
                snapshot_age_ms: status.snapshot_age_ms,
                voters_max: status.voters_max,
                is_full: status.is_full,
            }),
            Kind::Failure(failure) => Err(failure.try_into()?),
        })
    }
}

impl From<Result<Restored, Denied>> for proto::RestoreReply {
    fn from(result: Result<Restored, Denied>) -> Self {
        use proto::restore_reply::{self, Kind};
        let kind = match result {
            Ok(Restored { cluster, generation, node }) => Kind::Restored(restore_reply::Restored {
                cluster: cluster.as_bytes().to_vec(),
                generation,
                node: node.0,
            }),
            Err(denied) => Kind::Failure(denied.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::RestoreReply> for Result<Restored, Denied> {
    type Error = Malformed;

    fn try_from(reply: proto::RestoreReply) -> Result<Self, Malformed> {
        use proto::restore_reply::Kind;
        Ok(match required(reply.kind, "the answer to a restore")? {
            Kind::Restored(done) => Ok(Restored {
                cluster: cluster_id(&done.cluster)?,
                generation: done.generation,
                node: NodeId(done.node),
            }),
            Kind::Failure(failure) => Err(failure.try_into()?),
        })
    }
}

fn cluster_id(bytes: &[u8]) -> Result<Uuid, Malformed> {
    Uuid::from_slice(bytes).map_err(|_| Malformed { what: "a cluster's name" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Failure;
    use crate::{Refusal, RingKind, fixtures};

    #[test]
    fn init_round_trips() {
        let options = InitOptions {
            block_size: 1 << 16,
            block_spec: "crc".parse().unwrap(),
            replication: 3,
            ring: RingKind::Empty,
            voters_max: Some(3),
        };
        assert_eq!(proto::InitRequest::from(options.clone()).try_into(), Ok(options));
        let done = Ok(Initialised { cluster: Uuid::from_u128(7), peers: 3 });
        assert_eq!(proto::InitReply::from(done.clone()).try_into(), Ok(done));
    }

    #[test]
    fn every_denial_round_trips() {
        let denials = [
            Denied::Failure(Failure::NotInitialised),
            Denied::Failure(Failure::Unavailable),
            Denied::Failure(Failure::NotLeader { leader: None }),
            Denied::Failure(Failure::NotLeader { leader: Some("a:1".to_owned()) }),
            Denied::Refused(Refusal::AlreadyInitialised),
            Denied::AlreadyMember(Uuid::from_u128(7)),
            Denied::Joining("a:1".to_owned()),
            Denied::NoSuchMember(NodeId(3)),
            Denied::NotAVoter(NodeId(3)),
            Denied::LastVoter,
            Denied::NotReady(NodeId(3)),
            Denied::EvenVoters(4),
            Denied::Unreachable("b:2".to_owned()),
            Denied::AddressTaken("b:2".to_owned()),
            Denied::UnusableBackup("damaged".to_owned()),
            Denied::OtherCluster(Uuid::from_u128(8)),
            Denied::Level { known: FeatureLevel(1), needed: FeatureLevel(2) },
        ];
        for denied in denials {
            let reply: Result<Membership, Denied> = Err(denied);
            assert_eq!(proto::NodeReply::from(reply.clone()).try_into(), Ok(reply));
        }
    }

    #[test]
    fn status_and_applicants_round_trip() {
        let member = GroupMember {
            node: NodeId(1),
            address: "a:1".to_owned(),
            role: GroupRole::Voter,
            leader: true,
            matched: Some(0),
        };
        let learner = GroupMember { role: GroupRole::Learner, matched: None, ..member.clone() };
        let status = Ok(GroupStatus {
            cluster: Uuid::from_u128(7),
            node: NodeId(1),
            term: 2,
            last_log: 3,
            applied: 4,
            snapshot: 5,
            revision: Revision(6),
            sessions: 8,
            members: vec![member, learner],
            joint: true,
            generation: 3,
            level: FeatureLevel(2),
            known_level: FeatureLevel(4),
            committed: 10,
            quorum_acked_ms: Some(11),
            snapshot_age_ms: Some(12),
            voters_max: 13,
            is_full: true,
        });
        assert_eq!(proto::StatusReply::from(status.clone()).try_into(), Ok(status));
        let applicant = Applicant {
            peer: fixtures::peer_id(5),
            address: "c:3".to_owned(),
            level: FeatureLevel(2),
        };
        assert_eq!(proto::JoinRequest::from(applicant.clone()).try_into(), Ok(applicant));
        let place = Ok(Membership {
            cluster: Uuid::from_u128(7),
            group: Uuid::from_u128(8),
            node: NodeId(9),
        });
        let restored = Ok(Restored { cluster: Uuid::from_u128(7), generation: 2, node: NodeId(9) });
        assert_eq!(proto::RestoreReply::from(restored.clone()).try_into(), Ok(restored));
        assert_eq!(proto::NodeReply::from(place.clone()).try_into(), Ok(place));
    }
}
