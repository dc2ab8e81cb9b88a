//! Commands and what they give.

use torus_blockstore::{Epoch, INodeIndex, VolumeId};

use super::asks::volume_ids;
use super::kept::block_spec;
use super::proto::applied::Outcome as OutcomeKind;
use super::proto::command::{self, Kind};
use super::volumes::head_of;
use super::{Malformed, peer_id, proto, required, volume_id};
use crate::{Applied, AskId, Command, NodeId, Outcome, Response, Revision, SessionId, SnapshotId};

impl From<Command> for proto::Command {
    #[expect(clippy::too_many_lines, reason = "a table of the commands")]
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
            Command::DeleteVolume { volume, force } => {
                Kind::DeleteVolumeId(command::DeleteVolumeId { volume: volume.get(), force })
            }
            Command::DeleteVolumeNamed { name, force: false } => Kind::DeleteVolume(name),
            Command::DeleteVolumeNamed { name, force: true } => Kind::DeleteVolumeForced(name),
            Command::SetVotersMax(voters_max) => Kind::SetVotersMax(voters_max),
            Command::RenameVolume { name, to } => {
                Kind::RenameVolume(command::RenameVolume { name, to })
            }
            Command::CloneVolume { volume, snapshot, name } => {
                let (volume, snapshot) = (volume.get(), snapshot.0);
                Kind::CloneVolume(command::CloneVolume { volume, snapshot, name })
            }
            Command::ResizeVolume { volume, epoch, size, ask } => {
                let (volume, epoch) = (volume.get(), epoch.map(|epoch| epoch.0));
                let ask = ask.map(|ask| ask.0);
                Kind::ResizeVolume(command::ResizeVolume { volume, epoch, size, ask })
            }
            Command::DeleteSnapshot { volume, snapshot, force } => {
                let (volume, snapshot) = (volume.get(), snapshot.0);
                Kind::DeleteSnapshot(command::DeleteSnapshot { volume, snapshot, force })
            }
            Command::PinSnapshot { volume, snapshot, session } => {
                let (volume, snapshot, session) = (volume.get(), snapshot.0, session.0);
                Kind::PinSnapshot(command::PinSnapshot { volume, snapshot, session })
            }
            Command::AskWriters { volumes, task } => {
                let volumes = volumes.into_iter().map(VolumeId::get).collect();
                Kind::AskWriters(command::AskWriters { volumes, task: Some(task.into()) })
            }
            Command::WithdrawAsk { ask } => Kind::WithdrawAsk(ask.0),
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
            Command::UnlockVolume { volume, epoch, is_clean } => {
                let (volume, epoch) = (volume.get(), epoch.0);
                Kind::UnlockVolume(command::UnlockVolume { volume, epoch, is_clean })
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
            Command::CommitSnapshot { volume, epoch, name, size, created_ms, ask } => {
                let (volume, epoch, ask) = (volume.get(), epoch.0, ask.map(|ask| ask.0));
                let commit = command::CommitSnapshot { volume, epoch, name, size, created_ms, ask };
                Kind::CommitSnapshot(commit)
            }
            Command::RestoreSnapshot { volume, epoch, snapshot } => {
                let (volume, epoch, snapshot) = (volume.get(), epoch.0, snapshot.0);
                Kind::RestoreSnapshot(command::RestoreSnapshot { volume, epoch, snapshot })
            }
            Command::CommitFlattened { volume, epoch, ask } => {
                let (volume, epoch, ask) = (volume.get(), epoch.0, ask.map(|ask| ask.0));
                Kind::CommitFlattened(command::CommitFlattened { volume, epoch, ask })
            }
            Command::CommitReclaimed { volume, epoch, head } => {
                let (volume, epoch, head) = (volume.get(), epoch.0, Some(head.into()));
                Kind::CommitReclaimed(command::CommitReclaimed { volume, epoch, head })
            }
            Command::ForgetLostVolumes => Kind::ForgetLostVolumes(proto::Nothing {}),
            Command::RefuseAsk { volume, epoch, ask, error } => {
                let (volume, epoch, ask) = (volume.get(), epoch.0, ask.0);
                Kind::RefuseAsk(command::RefuseAsk { volume, epoch, ask, error })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Command> for Command {
    type Error = Malformed;

    #[expect(clippy::too_many_lines, reason = "a table of the commands")]
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
            Kind::DeleteVolumeId(delete) => {
                Self::DeleteVolume { volume: volume_id(delete.volume)?, force: delete.force }
            }
            Kind::DeleteVolume(name) => Self::DeleteVolumeNamed { name, force: false },
            Kind::DeleteVolumeForced(name) => Self::DeleteVolumeNamed { name, force: true },
            Kind::SetVotersMax(voters_max) => Self::SetVotersMax(voters_max),
            Kind::RenameVolume(command::RenameVolume { name, to }) => {
                Self::RenameVolume { name, to }
            }
            Kind::CloneVolume(clone) => Self::CloneVolume {
                volume: volume_id(clone.volume)?,
                snapshot: SnapshotId(clone.snapshot),
                name: clone.name,
            },
            Kind::ResizeVolume(resize) => Self::ResizeVolume {
                volume: volume_id(resize.volume)?,
                epoch: resize.epoch.map(Epoch),
                size: resize.size,
                ask: resize.ask.map(AskId),
            },
            Kind::DeleteSnapshot(delete) => Self::DeleteSnapshot {
                volume: volume_id(delete.volume)?,
                snapshot: SnapshotId(delete.snapshot),
                force: delete.force,
            },
            Kind::PinSnapshot(pin) => Self::PinSnapshot {
                volume: volume_id(pin.volume)?,
                snapshot: SnapshotId(pin.snapshot),
                session: SessionId(pin.session),
            },
            Kind::AskWriters(ask) => Self::AskWriters {
                volumes: volume_ids(ask.volumes)?,
                task: required(ask.task, "what a writer is asked")?.try_into()?,
            },
            Kind::WithdrawAsk(ask) => Self::WithdrawAsk { ask: AskId(ask) },
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
            Kind::UnlockVolume(lock) => Self::UnlockVolume {
                volume: volume_id(lock.volume)?,
                epoch: Epoch(lock.epoch),
                is_clean: lock.is_clean,
            },
            Kind::ReserveInodes(reserve) => Self::ReserveINodes {
                volume: volume_id(reserve.volume)?,
                epoch: Epoch(reserve.epoch),
                count: reserve.count,
            },
            Kind::CommitWindow(commit) => Self::CommitWindow {
                volume: volume_id(commit.volume)?,
                window: required(commit.window, "a window")?.try_into()?,
            },
            Kind::CommitHead(commit) => {
                let volume = volume_id(commit.volume)?;
                let head = head_of(volume, required(commit.head, "a head")?)?;
                Self::CommitHead { volume, head }
            }
            Kind::CommitSnapshot(commit) => Self::CommitSnapshot {
                volume: volume_id(commit.volume)?,
                epoch: Epoch(commit.epoch),
                name: commit.name,
                size: commit.size,
                created_ms: commit.created_ms,
                ask: commit.ask.map(AskId),
            },
            Kind::RestoreSnapshot(restore) => Self::RestoreSnapshot {
                volume: volume_id(restore.volume)?,
                epoch: Epoch(restore.epoch),
                snapshot: SnapshotId(restore.snapshot),
            },
            Kind::CommitFlattened(commit) => Self::CommitFlattened {
                volume: volume_id(commit.volume)?,
                epoch: Epoch(commit.epoch),
                ask: commit.ask.map(AskId),
            },
            Kind::CommitReclaimed(commit) => {
                let (volume, epoch) = (volume_id(commit.volume)?, Epoch(commit.epoch));
                let head = head_of(volume, required(commit.head, "a head")?)?;
                Self::CommitReclaimed { volume, epoch, head }
            }
            Kind::ForgetLostVolumes(_) => Self::ForgetLostVolumes,
            Kind::RefuseAsk(refuse) => Self::RefuseAsk {
                volume: volume_id(refuse.volume)?,
                epoch: Epoch(refuse.epoch),
                ask: AskId(refuse.ask),
                error: refuse.error,
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
            Outcome::Snapshot(snapshot) => OutcomeKind::Snapshot(snapshot.0),
            Outcome::Ask(ask) => OutcomeKind::Ask(ask.0),
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
            OutcomeKind::Snapshot(snapshot) => Outcome::Snapshot(SnapshotId(snapshot)),
            OutcomeKind::Ask(ask) => Outcome::Ask(AskId(ask)),
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
