//! What is asked of writers, and what came of it.

use torus_blockstore::VolumeId;

use super::proto::task::{self, Kind};
use super::{Malformed, proto, required, volume_id};
use crate::{Ask, AskAnswer, AskId, Task};

impl From<Task> for proto::Task {
    fn from(task: Task) -> Self {
        let kind = match task {
            Task::Snapshot { name, created_ms } => {
                Kind::Snapshot(task::Snapshot { name, created_ms })
            }
            Task::Resize { size, discard } => Kind::Resize(task::Resize { size, discard }),
            Task::Flatten => Kind::Flatten(proto::Nothing {}),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Task> for Task {
    type Error = Malformed;

    fn try_from(task: proto::Task) -> Result<Self, Malformed> {
        Ok(match required(task.kind, "what a writer is asked")? {
            Kind::Snapshot(task::Snapshot { name, created_ms }) => {
                Self::Snapshot { name, created_ms }
            }
            Kind::Resize(task::Resize { size, discard }) => Self::Resize { size, discard },
            Kind::Flatten(_) => Self::Flatten,
        })
    }
}

impl From<Ask> for proto::Ask {
    fn from(ask: Ask) -> Self {
        let group = ask.group.into_iter().map(VolumeId::get).collect();
        Self { id: ask.id.0, task: Some(ask.task.into()), group }
    }
}

impl TryFrom<proto::Ask> for Ask {
    type Error = Malformed;

    fn try_from(ask: proto::Ask) -> Result<Self, Malformed> {
        Ok(Self {
            id: AskId(ask.id),
            task: required(ask.task, "what a writer is asked")?.try_into()?,
            group: volume_ids(ask.group)?,
        })
    }
}

impl From<AskAnswer> for proto::AskAnswer {
    fn from(answer: AskAnswer) -> Self {
        let AskAnswer { id, error } = answer;
        Self { id: id.0, error }
    }
}

impl From<proto::AskAnswer> for AskAnswer {
    fn from(answer: proto::AskAnswer) -> Self {
        let proto::AskAnswer { id, error } = answer;
        Self { id: AskId(id), error }
    }
}

pub(super) fn volume_ids(raw: Vec<u64>) -> Result<Vec<VolumeId>, Malformed> {
    raw.into_iter().map(volume_id).collect()
}
