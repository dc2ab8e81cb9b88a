//! Volumes: their names, IDs and sizes.

use std::collections::BTreeSet;

use torus_blockstore::{BlockSpec, Epoch, INodeIndex, VolumeId};

use super::locks::in_use;
use super::{Change, State, asks};
use crate::{AskId, Event, Head, Outcome, Parent, Refusal, SnapshotId, Volume};

const NAME_MAX: usize = 255;
const SIZE_MAX: u64 = 256 << 40;

/// What sets one new volume apart from another.
pub(super) struct NewVolume {
    pub(super) name: String,
    pub(super) size: u64,
    /// `None`: the cluster's.
    pub(super) block_spec: Option<BlockSpec>,
    pub(super) head: Option<Head>,
    pub(super) parent: Option<Parent>,
}

impl State {
    pub(super) fn create_volume(
        &mut self,
        name: String,
        size: u64,
        block_spec: Option<BlockSpec>,
    ) -> Result<Change, Refusal> {
        self.add_volume(NewVolume { name, size, block_spec, head: None, parent: None })
    }

    pub(super) fn add_volume(&mut self, new: NewVolume) -> Result<Change, Refusal> {
        let NewVolume { name, size, block_spec, head, parent } = new;
        self.check_new_name(&name)?;
        check_size(size)?;
        let Some(global) = &self.global else { return Err(Refusal::NotInitialised) };
        let id = VolumeId::new(self.volumes_minted + 1).ok_or(Refusal::VOLUMES_EXHAUSTED)?;
        let volume = Volume {
            id,
            name: name.clone(),
            size,
            block_spec: block_spec.unwrap_or_else(|| global.block_spec.clone()),
            inode_index: INodeIndex(0),
            head,
            windows: Vec::new(),
            epoch: Epoch(0),
            lock: None,
            snapshots_minted: SnapshotId(0),
            snapshots: Vec::new(),
            parent,
            retired: Vec::new(),
            asks: Vec::new(),
            answers: Vec::new(),
            is_clean: true,
        };
        self.volumes_minted = id.get();
        self.names.insert(name, id);
        self.volumes.insert(id, volume.clone());
        Change::with(Outcome::Volume(volume.clone()), vec![Event::VolumeChanged(volume)])
    }

    pub(super) fn delete_volume(&mut self, id: VolumeId, force: bool) -> Result<Change, Refusal> {
        let volume = self.volume(id)?;
        if let Some(lock) = &volume.lock {
            return Err(in_use(volume, lock));
        }
        for snapshot in &volume.snapshots {
            self.check_no_clones(volume, snapshot)?;
        }
        if !force {
            // What is being read is the weightier reason against --force, so it is told first.
            volume.snapshots.iter().try_for_each(|snapshot| volume.check_unread(snapshot))?;
            if !volume.snapshots.is_empty() {
                let snapshots = volume.snapshots.len() as u64;
                return Err(Refusal::HasSnapshots { volume: volume.name.clone(), snapshots });
            }
        }
        let name = volume.name.clone();
        let rings: BTreeSet<_> = volume.windows.iter().map(|window| window.ring).collect();
        self.volumes.remove(&id);
        self.names.remove(&name);
        self.forget_rings(&rings);
        Change::done(vec![Event::VolumeDeleted(id)])
    }

    pub(super) fn rename_volume(&mut self, name: &str, to: String) -> Result<Change, Refusal> {
        let id = self.volume_named(name)?.id;
        self.check_new_name(&to)?;
        self.names.remove(name);
        self.names.insert(to.clone(), id);
        let volume = self.volume_mut(id)?;
        volume.name = to;
        Change::done(vec![Event::VolumeChanged(volume.clone())])
    }

    pub(super) fn resize_volume(
        &mut self,
        volume: VolumeId,
        epoch: Option<Epoch>,
        size: u64,
        ask: Option<AskId>,
    ) -> Result<Change, Refusal> {
        check_size(size)?;
        let volume = match epoch {
            Some(epoch) => self.volume_of_epoch(volume, epoch)?,
            None => self.volume_mut(volume)?,
        };
        if epoch.is_none() && size < volume.size {
            return Err(Refusal::Shrinks);
        }
        asks::answer(volume, ask)?;
        if ask.is_none() && volume.size == size {
            return Change::nothing();
        }
        volume.size = size;
        Change::done(vec![Event::VolumeChanged(volume.clone())])
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

    /// The volume, if `epoch` is its newest and holds the lock.
    pub(super) fn volume_locked_by(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
    ) -> Result<&mut Volume, Refusal> {
        let volume = self.volume_of_epoch(volume, epoch)?;
        if volume.lock.is_none() {
            return Err(Refusal::NotLocked { epoch });
        }
        Ok(volume)
    }

    pub(super) fn volume(&self, id: VolumeId) -> Result<&Volume, Refusal> {
        self.volumes.get(&id).ok_or(Refusal::NoSuchVolumeId { id })
    }

    pub(super) fn volume_mut(&mut self, id: VolumeId) -> Result<&mut Volume, Refusal> {
        self.volumes.get_mut(&id).ok_or(Refusal::NoSuchVolumeId { id })
    }

    pub(super) fn volume_named(&self, name: &str) -> Result<&Volume, Refusal> {
        let volume = self.names.get(name).and_then(|id| self.volumes.get(id));
        volume.ok_or_else(|| Refusal::NoSuchVolume { name: name.to_owned() })
    }

    fn check_new_name(&self, name: &str) -> Result<(), Refusal> {
        match name_fault(name) {
            Some(NameFault::Length) => Err(Refusal::NAME_LENGTH),
            Some(NameFault::Start) => Err(Refusal::NAME_START),
            Some(NameFault::Character) => Err(Refusal::NAME_CHARACTER),
            None if self.names.contains_key(name) => {
                Err(Refusal::VolumeExists { name: name.to_owned() })
            }
            None => Ok(()),
        }
    }
}

pub(super) fn check_size(size: u64) -> Result<(), Refusal> {
    match size {
        0 => Err(Refusal::SIZE_ZERO),
        1..=SIZE_MAX => Ok(()),
        _ => Err(Refusal::SIZE_LIMIT),
    }
}

/// Why a name is not one.
pub(super) enum NameFault {
    Length,
    Start,
    Character,
}

/// A name must do as an NBD export name, a file name and an argument; '@' stands between a
/// volume's and its snapshot's.
pub(super) fn name_fault(name: &str) -> Option<NameFault> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Some(NameFault::Length);
    }
    if name.starts_with(['-', '.']) {
        return Some(NameFault::Start);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (!name.chars().all(allowed)).then_some(NameFault::Character)
}
