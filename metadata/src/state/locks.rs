//! The locks of volumes: the right to write one, and the epochs under which it is used.

use torus_blockstore::{Epoch, VolumeId};

use super::{Change, State, asks};
use crate::{Event, Lock, Outcome, Refusal, SessionId, Volume};

impl State {
    pub(super) fn lock_volume(
        &mut self,
        volume: VolumeId,
        session: SessionId,
    ) -> Result<Change, Refusal> {
        let owner = self.owner_of(session)?;
        let volume = self.volume_mut(volume)?;
        if let Some(lock) = volume.lock.as_ref().filter(|lock| lock.session != session) {
            return Err(in_use(volume, lock));
        }
        volume.epoch = Epoch(volume.epoch.0 + 1);
        volume.lock = Some(Lock { session, epoch: volume.epoch, owner });
        asks::answer_all_as_closed(volume);
        Change::with(Outcome::Epoch(volume.epoch), vec![Event::VolumeChanged(volume.clone())])
    }

    pub(super) fn relock_volume(
        &mut self,
        volume: VolumeId,
        session: SessionId,
        epoch: Epoch,
    ) -> Result<Change, Refusal> {
        let owner = self.owner_of(session)?;
        let volume = self.volume_of_epoch(volume, epoch)?;
        match &volume.lock {
            Some(lock) if lock.session == session => Change::nothing(),
            Some(lock) => Err(in_use(volume, lock)),
            // No epoch was ever granted, so there is nothing to take again.
            None if epoch == Epoch(0) => Err(Refusal::NotLocked { epoch }),
            None => {
                volume.lock = Some(Lock { session, epoch, owner });
                Change::done(vec![Event::VolumeChanged(volume.clone())])
            }
        }
    }

    pub(super) fn unlock_volume(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        is_clean: bool,
    ) -> Result<Change, Refusal> {
        let volume = self.volume_of_epoch(volume, epoch)?;
        match volume.lock.take() {
            Some(_) => {
                volume.is_clean = is_clean;
                asks::answer_all_as_closed(volume);
                Change::done(vec![Event::VolumeChanged(volume.clone())])
            }
            // The session's end freed it before.
            None => Change::nothing(),
        }
    }

    fn owner_of(&self, session: SessionId) -> Result<String, Refusal> {
        let session = self.sessions.get(&session).ok_or(Refusal::NoSuchSession)?;
        Ok(session.owner.clone())
    }
}

pub(super) fn in_use(volume: &Volume, lock: &Lock) -> Refusal {
    Refusal::InUse { name: volume.name.clone(), owner: lock.owner.clone() }
}
