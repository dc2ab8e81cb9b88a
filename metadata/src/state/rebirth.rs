//! What becomes of a state with which another group goes on: that of a backup, or what one member
//! had of a group that is lost.
//!
//! The former group may have gone on after the moment of this state, and others may have gone on with
//! the same state before, so whatever they granted must stay below what is granted from now on:
//! revisions (and with them sessions and asks), epochs, INode indexes, volume and snapshot IDs and ring
//! versions go on by the clock, ahead of what a group can use up until any moment. Sessions end, and
//! with them the locks. Volumes that were created since are not known: their IDs are *lost*, and nobody
//! may take their blocks for those of deleted ones.

use std::collections::BTreeSet;

use torus_blockstore::{Epoch, INodeIndex, VolumeId};

use super::{Change, State};
use crate::{Event, Group, Refusal, Revision, RingVersion, SnapshotId};

/// The clock begins in 2020.
const ZERO_MS: u64 = 1_577_836_800_000;

/// What can be granted of something.
struct Supply {
    /// Of each second of the clock, as a power of two; nobody grants so many in all that time.
    rate: u32,
    /// How far on it goes when the clock stands too far back to tell.
    step: u64,
}

/// 2^53, up to where JSON is exact, is reached in 2290.
const REVISIONS: Supply = Supply { rate: 20, step: 1 << 40 };
const EPOCHS: Supply = Supply { rate: 20, step: 1 << 32 };
const INODES: Supply = Supply { rate: 20, step: 1 << 32 };
/// Of the 2^40 - 1 that there are, which will last until 2156.
const VOLUMES: Supply = Supply { rate: 8, step: 1 << 20 };
const VOLUMES_MAX: u64 = (1 << 40) - 1;
const SNAPSHOTS: Supply = Supply { rate: 8, step: 1 << 20 };
const RINGS: Supply = Supply { rate: 0, step: 1 << 20 };

impl Supply {
    /// Where it goes on from `granted` at `seconds` of the clock.
    fn leap(&self, granted: u64, seconds: u64) -> u64 {
        let by_clock = seconds << self.rate;
        if by_clock > granted { by_clock } else { granted.saturating_add(self.step) }
    }
}

impl State {
    /// Makes it the state of the next generation, at `now_ms`, in milliseconds since 1970.
    pub(crate) fn begin_generation(&mut self, now_ms: u64) {
        // Far below where the shifts would overflow.
        let seconds = (now_ms.saturating_sub(ZERO_MS) / 1000).min(1 << 33);
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        // Nobody watches: whoever followed the former group has to list everything anew.
        let ended = self.expire_sessions(&sessions);
        assert!(ended.is_ok(), "the end of sessions is never refused");
        self.revision = Revision(REVISIONS.leap(self.revision.0, seconds));
        for volume in self.volumes.values_mut() {
            volume.epoch = Epoch(EPOCHS.leap(volume.epoch.0, seconds));
            volume.inode_index = INodeIndex(INODES.leap(volume.inode_index.0, seconds));
            let snapshots = SNAPSHOTS.leap(volume.snapshots_minted.0, seconds);
            volume.snapshots_minted = SnapshotId(snapshots);
            volume.is_clean = false;
        }
        let minted = VOLUMES.leap(self.volumes_minted, seconds).min(VOLUMES_MAX);
        if minted > self.volumes_minted {
            self.lost.push(self.volumes_minted + 1..=minted);
            self.volumes_minted = minted;
        }
        let former = self.ring;
        if let Some(mut ring) = self.rings.get(&former).cloned() {
            ring.version = RingVersion(RINGS.leap(former.0, seconds));
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
