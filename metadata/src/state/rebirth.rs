//! What becomes of a state with which another group goes on: that of a backup, or what one member
//! had of a group that is lost.
//!
//! The former group may have gone on after the moment of this state, so whatever it granted since
//! must stay below what is granted from now on: revisions (and with them sessions and asks), epochs,
//! INode indexes, volume and snapshot IDs, ring versions all leap by more than a group can use up
//! between two backups. Sessions end, and with them the locks. Volumes that were created since are
//! not known: their IDs are *lost*, and nobody may take their blocks for those of deleted ones.

use std::collections::BTreeSet;

use torus_blockstore::{Epoch, INodeIndex, VolumeId};

use super::{Change, State};
use crate::{Event, Group, Refusal, Revision, RingVersion, SnapshotId};

/// At a million changes a second, twelve days. JSON keeps numbers exactly up to 8,192 such leaps.
const REVISIONS: u64 = 1 << 40;
const EPOCHS: u64 = 1 << 32;
const INODES: u64 = 1 << 32;
/// Of the 2^40 - 1 that there are.
const VOLUMES: u64 = 1 << 20;
const VOLUMES_MAX: u64 = (1 << 40) - 1;
const SNAPSHOTS: u64 = 1 << 20;
const RINGS: u64 = 1 << 20;

impl State {
    /// Makes it the state of the next generation.
    pub(crate) fn begin_generation(&mut self) {
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        // Nobody watches: whoever followed the former group has to list everything anew.
        let ended = self.expire_sessions(&sessions);
        assert!(ended.is_ok(), "the end of sessions is never refused");
        self.revision = Revision(self.revision.0 + REVISIONS);
        for volume in self.volumes.values_mut() {
            volume.epoch = Epoch(volume.epoch.0 + EPOCHS);
            volume.inode_index = INodeIndex(volume.inode_index.0 + INODES);
            volume.snapshots_minted = SnapshotId(volume.snapshots_minted.0 + SNAPSHOTS);
            volume.is_clean = false;
        }
        let minted = self.volumes_minted.saturating_add(VOLUMES).min(VOLUMES_MAX);
        if minted > self.volumes_minted {
            self.lost.push(self.volumes_minted + 1..=minted);
            self.volumes_minted = minted;
        }
        let former = self.ring;
        if let Some(mut ring) = self.rings.get(&former).cloned() {
            ring.version = RingVersion(former.0 + RINGS);
            self.ring = ring.version;
            self.rings.insert(ring.version, ring);
            self.forget_rings(&BTreeSet::from([former]));
        }
        // Identities in the former group.
        self.group = Group { voters_max: self.group.voters_max, ..Group::default() };
        self.nodes.clear();
        for peer in self.peers.values_mut() {
            peer.node = None;
        }
        self.generation = self.generation.max(1) + 1;
    }

    /// From now on the IDs that former generations may have given count as those of deleted volumes.
    pub(super) fn forget_lost_volumes(&mut self) -> Result<Change, Refusal> {
        if self.lost.is_empty() {
            return Change::nothing();
        }
        // One of each range is enough to wake those that delete.
        let first = std::mem::take(&mut self.lost).into_iter().map(|ids| *ids.start());
        Change::done(first.filter_map(VolumeId::new).map(Event::VolumeDeleted).collect())
    }
}
