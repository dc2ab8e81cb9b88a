//! Volumes: their names, IDs and locks.

use std::collections::BTreeSet;

use torus_blockstore::{BlockSpec, Epoch, INodeIndex, VolumeId};

use super::{Change, State};
use crate::{Event, Lock, Outcome, Refusal, SessionId, Volume};

const NAME_MAX: usize = 255;
const SIZE_MAX: u64 = 256 << 40;

impl State {
    pub(super) fn create_volume(
        &mut self,
        name: String,
        size: u64,
        spec: Option<BlockSpec>,
    ) -> Result<Change, Refusal> {
        validate_name(&name)?;
        match size {
            0 => return Err(Refusal::SIZE_ZERO),
            1..=SIZE_MAX => {}
            _ => return Err(Refusal::SIZE_LIMIT),
        }
        if self.names.contains_key(&name) {
            return Err(Refusal::VolumeExists { name });
        }
        let Some(global) = &self.global else { return Err(Refusal::NotInitialised) };
        let id = VolumeId::new(self.volumes_minted + 1).ok_or(Refusal::VOLUMES_EXHAUSTED)?;
        let volume = Volume {
            id,
            name: name.clone(),
            size,
            block_spec: spec.unwrap_or_else(|| global.block_spec.clone()),
            inode_index: INodeIndex(0),
            head: None,
            windows: Vec::new(),
            epoch: Epoch(0),
            lock: None,
        };
        self.volumes_minted = id.get();
        self.names.insert(name, id);
        self.volumes.insert(id, volume.clone());
        Change::with(Outcome::Volume(volume.clone()), vec![Event::VolumeChanged(volume)])
    }

    pub(super) fn delete_volume(&mut self, name: &str) -> Result<Change, Refusal> {
        let volume = self.names.get(name).and_then(|id| self.volumes.get(id));
        let Some(volume) = volume else {
            return Err(Refusal::NoSuchVolume { name: name.to_owned() });
        };
        if let Some(lock) = &volume.lock {
            return Err(in_use(volume, lock));
        }
        let id = volume.id;
        let rings: BTreeSet<_> = volume.windows.iter().map(|window| window.ring).collect();
        self.volumes.remove(&id);
        self.names.remove(name);
        self.forget_rings(&rings);
        Change::done(vec![Event::VolumeDeleted(id)])
    }

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
    ) -> Result<Change, Refusal> {
        let volume = self.volume_of_epoch(volume, epoch)?;
        match volume.lock.take() {
            Some(_) => Change::done(vec![Event::VolumeChanged(volume.clone())]),
            // The session's end freed it before.
            None => Change::nothing(),
        }
    }

    /// The volume, if `epoch` is its newest.
    pub(super) fn volume_of_epoch(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
    ) -> Result<&mut Volume, Refusal> {
        let volume = self.volume_mut(volume)?;
        if volume.epoch != epoch {
            return Err(Refusal::StaleEpoch { found: epoch, current: volume.epoch });
        }
        Ok(volume)
    }

    fn volume_mut(&mut self, id: VolumeId) -> Result<&mut Volume, Refusal> {
        self.volumes.get_mut(&id).ok_or(Refusal::NoSuchVolumeId { id })
    }

    fn owner_of(&self, session: SessionId) -> Result<String, Refusal> {
        let session = self.sessions.get(&session).ok_or(Refusal::NoSuchSession)?;
        Ok(session.owner.clone())
    }
}

fn in_use(volume: &Volume, lock: &Lock) -> Refusal {
    Refusal::InUse { name: volume.name.clone(), owner: lock.owner.clone() }
}

/// A name must do as an NBD export name, a file name and an argument; '@' is the snapshots'.
fn validate_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Refusal::NAME_LENGTH);
    }
    if name.starts_with(['-', '.']) {
        return Err(Refusal::NAME_START);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.chars().all(allowed) { Ok(()) } else { Err(Refusal::NAME_CHARACTER) }
}
