//! Commands and what they give.

use torus_blockstore::{Epoch, INodeIndex};

use super::kept::block_spec;
use super::proto::applied::Outcome as OutcomeKind;
use super::proto::command::{self, Kind};
use super::{Malformed, peer_id, proto, required, volume_id};
use crate::{Applied, Command, NodeId, Outcome, Response, Revision, SessionId};

impl From<Command> for proto::Command {
    fn from(command: Command) -> Self {
        let kind = match command {
            Command::Init { global, ring } => {
                Kind::Init(command::Init { global: Some(global.into()), ring: Some(ring.into()) })
            }
            Command::AllocateNode { peer } => Kind::AllocateNode(peer.encode().to_vec()),
            Command::RegisterPeer(peer) => Kind::RegisterPeer(peer.into()),
            Command::RemovePeer(peer) => Kind::RemovePeer(peer.encode().to_vec()),
            Command::SetRing(ring) => Kind::SetRing(ring.into()),
            Command::CreateVolume { name, size, spec } => {
                let spec = spec.map(|spec| spec.to_string());
                Kind::CreateVolume(command::CreateVolume { name, size, spec })
            }
            Command::DeleteVolume { name } => Kind::DeleteVolume(name),
            Command::OpenSession { owner, ttl_ms } => {
                Kind::OpenSession(command::OpenSession { owner, ttl_ms })
            }
            Command::CloseSession(session) => Kind::CloseSession(session.0),
            Command::ExpireSessions(sessions) => {
                let ids = sessions.into_iter().map(|session| session.0).collect();
                Kind::ExpireSessions(command::Sessions { ids })
            }
            Command::LockVolume { volume, session } => {
                let (volume, session) = (volume.get(), session.0);
                Kind::LockVolume(command::LockVolume { volume, session })
            }
            Command::RelockVolume { volume, session, epoch } => {
                let (volume, session, epoch) = (volume.get(), session.0, epoch.0);
                Kind::RelockVolume(command::RelockVolume { volume, session, epoch })
            }
            Command::UnlockVolume { volume, epoch } => {
                let (volume, epoch) = (volume.get(), epoch.0);
                Kind::UnlockVolume(command::UnlockVolume { volume, epoch })
            }
            Command::ReserveINodes { volume, epoch, count } => {
                let (volume, epoch) = (volume.get(), epoch.0);
                Kind::ReserveInodes(command::ReserveINodes { volume, epoch, count })
            }
            Command::CommitWindow { volume, window } => {
                let (volume, window) = (volume.get(), Some(window.into()));
                Kind::CommitWindow(command::CommitWindow { volume, window })
            }
            Command::CommitHead { volume, head } => {
                let (volume, head) = (volume.get(), Some(head.into()));
                Kind::CommitHead(command::CommitHead { volume, head })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Command> for Command {
    type Error = Malformed;

    fn try_from(command: proto::Command) -> Result<Self, Malformed> {
        Ok(match required(command.kind, "a command")? {
            Kind::Init(init) => Self::Init {
                global: required(init.global, "the cluster's metadata")?.try_into()?,
                ring: required(init.ring, "a ring")?.try_into()?,
            },
            Kind::AllocateNode(peer) => Self::AllocateNode { peer: peer_id(&peer)? },
            Kind::RegisterPeer(peer) => Self::RegisterPeer(peer.try_into()?),
            Kind::RemovePeer(peer) => Self::RemovePeer(peer_id(&peer)?),
            Kind::SetRing(ring) => Self::SetRing(ring.try_into()?),
            Kind::CreateVolume(command::CreateVolume { name, size, spec }) => {
                let spec = spec.as_deref().map(block_spec).transpose()?;
                Self::CreateVolume { name, size, spec }
            }
            Kind::DeleteVolume(name) => Self::DeleteVolume { name },
            Kind::OpenSession(command::OpenSession { owner, ttl_ms }) => {
                Self::OpenSession { owner, ttl_ms }
            }
            Kind::CloseSession(session) => Self::CloseSession(SessionId(session)),
            Kind::ExpireSessions(command::Sessions { ids }) => {
                Self::ExpireSessions(ids.into_iter().map(SessionId).collect())
            }
            Kind::LockVolume(lock) => Self::LockVolume {
                volume: volume_id(lock.volume)?,
                session: SessionId(lock.session),
            },
            Kind::RelockVolume(lock) => Self::RelockVolume {
                volume: volume_id(lock.volume)?,
                session: SessionId(lock.session),
                epoch: Epoch(lock.epoch),
            },
            Kind::UnlockVolume(lock) => {
                Self::UnlockVolume { volume: volume_id(lock.volume)?, epoch: Epoch(lock.epoch) }
            }
            Kind::ReserveInodes(reserve) => Self::ReserveINodes {
                volume: volume_id(reserve.volume)?,
                epoch: Epoch(reserve.epoch),
                count: reserve.count,
            },
            Kind::CommitWindow(commit) => Self::CommitWindow {
                volume: volume_id(commit.volume)?,
                window: required(commit.window, "a window")?.try_into()?,
            },
            Kind::CommitHead(commit) => Self::CommitHead {
                volume: volume_id(commit.volume)?,
                head: required(commit.head, "a head")?.try_into()?,
            },
        })
    }
}

impl From<Applied> for proto::Applied {
    fn from(applied: Applied) -> Self {
        let outcome = match applied.outcome {
            Outcome::Done => OutcomeKind::Done(proto::Nothing {}),
            Outcome::Volume(volume) => OutcomeKind::Volume(volume.into()),
            Outcome::Session(session) => OutcomeKind::Session(session.0),
            Outcome::Epoch(epoch) => OutcomeKind::Epoch(epoch.0),
            Outcome::INode(inode) => OutcomeKind::Inode(inode.0),
            Outcome::Node(node) => OutcomeKind::Node(node.0),
        };
        Self { revision: applied.revision.0, outcome: Some(outcome) }
    }
}

impl TryFrom<proto::Applied> for Applied {
    type Error = Malformed;

    fn try_from(applied: proto::Applied) -> Result<Self, Malformed> {
        let outcome = match required(applied.outcome, "an outcome")? {
            OutcomeKind::Done(_) => Outcome::Done,
            OutcomeKind::Volume(volume) => Outcome::Volume(volume.try_into()?),
            OutcomeKind::Session(session) => Outcome::Session(SessionId(session)),
            OutcomeKind::Epoch(epoch) => Outcome::Epoch(Epoch(epoch)),
            OutcomeKind::Inode(inode) => Outcome::INode(INodeIndex(inode)),
            OutcomeKind::Node(node) => Outcome::Node(NodeId(node)),
        };
        Ok(Self { revision: Revision(applied.revision), outcome })
    }
}

impl From<Response> for proto::Response {
    fn from(response: Response) -> Self {
        use proto::response::Kind;
        let kind = match response {
            Ok(applied) => Kind::Applied(applied.into()),
            Err(refusal) => Kind::Refusal(refusal.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Response> for Response {
    type Error = Malformed;

    fn try_from(response: proto::Response) -> Result<Self, Malformed> {
        use proto::response::Kind;
        match required(response.kind, "a response")? {
            Kind::Applied(applied) => Ok(Ok(applied.try_into()?)),
            Kind::Refusal(refusal) => Ok(Err(refusal.try_into()?)),
        }
    }
}
