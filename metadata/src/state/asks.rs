//! What is asked of volumes' writers by others, and what came of it.
//!
//! An ask stays open until the writer has done it (the command that tells so names it), has
//! refused it, or is gone; its answer is kept with the volume for whoever asked.

use std::collections::BTreeSet;

use torus_blockstore::{Epoch, VolumeId};

use super::snapshots::{check_room, check_snapshot_name};
use super::volumes::check_size;
use super::{Change, State};
use crate::{Ask, AskAnswer, AskId, Event, Outcome, Refusal, Task, Volume};

/// Volumes that can be asked at once.
const GROUP_MAX: usize = 64;
/// Open asks of one volume.
const ASKS_MAX: usize = 16;
/// Answers that a volume keeps.
const ANSWERS_MAX: usize = 16;
/// Bytes of an answer's text.
const ERROR_MAX: usize = 512;
const CLOSED: &str = "the volume was closed before it was done";

impl State {
    pub(super) fn ask_writers(
        &mut self,
        group: Vec<VolumeId>,
        task: Task,
    ) -> Result<Change, Refusal> {
        check_group(&group, &task)?;
        let volumes: Vec<_> = group.iter().map(|id| self.volume(*id)).collect::<Result<_, _>>()?;
        let mut owner = None;
        for volume in &volumes {
            let Some(lock) = &volume.lock else {
                return Err(Refusal::NoWriter { name: volume.name.clone() });
            };
            if *owner.get_or_insert(&lock.owner) != &lock.owner {
                return Err(Refusal::SeveralWriters);
            }
        }
        for volume in volumes {
            check_task(volume, &task)?;
            if volume.asks.len() >= ASKS_MAX {
                return Err(Refusal::ASK_LIMIT);
            }
        }
        let id = AskId(self.next_revision().0);
        let mut events = Vec::new();
        for volume in &group {
            let ask = Ask { id, task: task.clone(), group: group.clone() };
            let volume = self.volume_mut(*volume)?;
            volume.asks.push(ask);
            events.push(Event::VolumeChanged(volume.clone()));
        }
        Change::with(Outcome::Ask(id), events)
    }

    pub(super) fn withdraw_ask(&mut self, ask: AskId) -> Result<Change, Refusal> {
        let mut events = Vec::new();
        for volume in self.volumes.values_mut() {
            if take(volume, ask).is_some() {
                events.push(Event::VolumeChanged(volume.clone()));
            }
        }
        if events.is_empty() { Change::nothing() } else { Change::done(events) }
    }

    pub(super) fn refuse_ask(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        ask: AskId,
        mut error: String,
    ) -> Result<Change, Refusal> {
        let volume = self.volume_of_epoch(volume, epoch)?;
        take(volume, ask).ok_or(Refusal::NoSuchAsk)?;
        let fits = error.char_indices().map(|(start, c)| start + c.len_utf8());
        error.truncate(fits.take_while(|end| *end <= ERROR_MAX).last().unwrap_or(0));
        keep(volume, AskAnswer { id: ask, error: Some(error) });
        Change::done(vec![Event::VolumeChanged(volume.clone())])
    }
}

/// Says that `ask`, if it was one, was done.
pub(super) fn answer(volume: &mut Volume, ask: Option<AskId>) -> Result<(), Refusal> {
    if let Some(id) = ask {
        take(volume, id).ok_or(Refusal::NoSuchAsk)?;
        keep(volume, AskAnswer { id, error: None });
    }
    Ok(())
}

/// Nobody is there any more to do what was asked.
pub(super) fn answer_all_as_closed(volume: &mut Volume) {
    for ask in std::mem::take(&mut volume.asks) {
        keep(volume, AskAnswer { id: ask.id, error: Some(CLOSED.to_owned()) });
    }
}

fn take(volume: &mut Volume, id: AskId) -> Option<Ask> {
    let index = volume.asks.iter().position(|ask| ask.id == id)?;
    Some(volume.asks.remove(index))
}

fn keep(volume: &mut Volume, answer: AskAnswer) {
    volume.answers.push(answer);
    let excess = volume.answers.len().saturating_sub(ANSWERS_MAX);
    volume.answers.drain(..excess);
}

fn check_group(group: &[VolumeId], task: &Task) -> Result<(), Refusal> {
    if !(1..=GROUP_MAX).contains(&group.len()) {
        return Err(Refusal::ASK_GROUP_SIZE);
    }
    if group.iter().collect::<BTreeSet<_>>().len() != group.len() {
        return Err(Refusal::ASK_GROUP_TWICE);
    }
    match task {
        Task::Snapshot { .. } => Ok(()),
        Task::Resize { .. } | Task::Flatten if group.len() == 1 => Ok(()),
        Task::Resize { .. } | Task::Flatten => Err(Refusal::ASK_GROUP_TASK),
    }
}

fn check_task(volume: &Volume, task: &Task) -> Result<(), Refusal> {
    match task {
        Task::Snapshot { name, .. } => {
            check_snapshot_name(volume, name)?;
            check_room(volume)?;
            let asked =
                |ask: &Ask| matches!(&ask.task, Task::Snapshot { name: n, .. } if n == name);
            if volume.asks.iter().any(asked) {
                let (volume, snapshot) = (volume.name.clone(), name.clone());
                return Err(Refusal::SnapshotExists { volume, snapshot });
            }
            Ok(())
        }
        Task::Resize { size, .. } => check_size(*size),
        Task::Flatten => Ok(()),
    }
}
