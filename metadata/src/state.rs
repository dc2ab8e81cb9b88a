//! The state machine: all that the cluster agrees on, changed by commands alone.
//!
//! Pure: no clock, no randomness, no I/O. The same commands at the same indexes give the same
//! answers and the same state on every member.
//!
//! Invariants: volume IDs, INode indexes, epochs, session and node identities only grow, so none
//! is ever given twice; a lock's epoch is its volume's newest; every window names a ring that is
//! kept; a snapshot stays as long as a volume made from it may point into its blocks; a refused
//! command changes nothing.

mod asks;
mod clones;
mod group;
mod locks;
mod peers;
mod rebirth;
mod rings;
mod sessions;
mod snapshots;
#[cfg(test)]
mod tests;
mod volumes;
mod writers;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use torus_blockstore::{PeerId, VolumeId};

use crate::{
    Answer, Applied, Command, Event, FeatureLevel, GlobalMetadata, Group, NodeId, Outcome, Peer,
    Query, Refusal, Response, Revision, Ring, RingVersion, Session, SessionId, Volume,
};

/// The metadata of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub(crate) revision: Revision,
    /// `None` before `init`.
    pub(crate) global: Option<GlobalMetadata>,
    /// The highest volume ID ever given.
    pub(crate) volumes_minted: u64,
    pub(crate) volumes: BTreeMap<VolumeId, Volume>,
    /// Key: `Volume::name`.
    pub(crate) names: BTreeMap<String, VolumeId>,
    /// The present ring's version; 0 before `init`.
    pub(crate) ring: RingVersion,
    /// The present ring, and those that open windows name.
    pub(crate) rings: BTreeMap<RingVersion, Ring>,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    /// The newest identity in the Raft group that each peer was given.
    pub(crate) nodes: BTreeMap<PeerId, NodeId>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// Counts the groups that have gone on with this state; 0 before `init`.
    pub(crate) generation: u64,
    /// All members know the commands up to this level.
    pub(crate) level: FeatureLevel,
    /// Volume IDs that a former generation may have given: whether there are such volumes, and what
    /// became of them, is not known.
    pub(crate) lost: Vec<RangeInclusive<u64>>,
    pub(crate) group: Group,
}

/// A command that was not refused.
struct Change {
    outcome: Outcome,
    /// What watchers see; `None`: nothing was changed, so no revision is used.
    events: Option<Vec<Event>>,
}

impl Change {
    fn with(outcome: Outcome, events: Vec<Event>) -> Result<Self, Refusal> {
        Ok(Self { outcome, events: Some(events) })
    }

    fn done(events: Vec<Event>) -> Result<Self, Refusal> {
        Self::with(Outcome::Done, events)
    }

    fn nothing() -> Result<Self, Refusal> {
        Ok(Self { outcome: Outcome::Done, events: None })
    }
}

impl State {
    /// Carries out one command, which stands in the log at `index`. The events belong to the
    /// revision that the answer names, and are empty when nothing was changed.
    pub fn apply(&mut self, index: u64, command: Command) -> (Response, Vec<Event>) {
        match self.change(index, command) {
            Ok(Change { outcome, events }) => {
                if events.is_some() {
                    self.revision = self.next_revision();
                }
                let applied = Applied { revision: self.revision, outcome };
                (Ok(applied), events.unwrap_or_default())
            }
            Err(refusal) => (Err(refusal), Vec::new()),
        }
    }

    /// Answers a question from the present state.
    pub fn answer(&self, query: &Query) -> Answer {
        let revision = self.revision;
        match query {
            Query::Cluster => Answer::Cluster {
                global: self.global.clone(),
                volumes_minted: self.volumes_minted,
                generation: self.generation,
                level: self.level,
                revision,
            },
            Query::Volumes => Answer::Volumes {
                volumes: self.volumes.values().cloned().collect(),
                volumes_minted: self.volumes_minted,
                lost: self.lost.clone(),
                revision,
            },
            Query::VolumeByName(name) => {
                let volume = self.names.get(name).and_then(|id| self.volumes.get(id));
                Answer::Volume { volume: volume.cloned(), revision }
            }
            Query::VolumeById(id) => {
                Answer::Volume { volume: self.volumes.get(id).cloned(), revision }
            }
            Query::Ring(version) => {
                let ring = self.rings.get(&version.unwrap_or(self.ring)).cloned();
                Answer::Ring { ring, revision }
            }
            Query::Peers => {
                Answer::Peers { peers: self.peers.values().cloned().collect(), revision }
            }
            Query::Sessions => {
                Answer::Sessions { sessions: self.sessions.values().cloned().collect(), revision }
            }
            Query::Group => Answer::Group { group: self.group.clone(), revision },
        }
    }

    /// The number of changes so far.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The level of the commands that can be given.
    pub fn level(&self) -> FeatureLevel {
        self.level
    }

    /// Counts the groups that have gone on with this state.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The sessions that live.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    #[expect(clippy::too_many_lines, reason = "a line or two for each command")]
    fn change(&mut self, index: u64, command: Command) -> Result<Change, Refusal> {
        // A daemon gets its identity and registers before or after `init`, as it happens.
        let any_time = matches!(
            command,
            Command::Init { .. }
                | Command::AllocateNode { .. }
                | Command::RegisterPeer(_)
                | Command::SetVotersMax(_)
        );
        if self.global.is_none() && !any_time {
            return Err(Refusal::NotInitialised);
        }
        let needed = command.level();
        if needed > self.level {
            return Err(Refusal::Level { needed, present: self.level });
        }
        match command {
            Command::Init { global, ring } => self.init(global, ring),
            Command::AllocateNode { peer } => self.allocate_node(NodeId(index), peer),
            Command::RegisterPeer(peer) => self.register_peer(peer),
            Command::RemovePeer(peer) => self.remove_peer(peer),
            Command::SetVotersMax(voters_max) => self.set_voters_max(voters_max),
            Command::SetRing(ring) => self.set_ring(ring),
            Command::CreateVolume { name, size, spec } => self.create_volume(name, size, spec),
            Command::DeleteVolume { volume, force } => self.delete_volume(volume, force),
            Command::DeleteVolumeNamed { name, force } => {
                self.delete_volume(self.volume_named(&name)?.id, force)
            }
            Command::RenameVolume { name, to } => self.rename_volume(&name, to),
            Command::CloneVolume { volume, snapshot, name } => {
                self.clone_volume(volume, snapshot, name)
            }
            Command::ResizeVolume { volume, epoch, size, ask } => {
                self.resize_volume(volume, epoch, size, ask)
            }
            Command::DeleteSnapshot { volume, snapshot, force } => {
                self.delete_snapshot(volume, snapshot, force)
            }
            Command::PinSnapshot { volume, snapshot, session } => {
                self.pin_snapshot(volume, snapshot, session)
            }
            Command::AskWriters { volumes, task } => self.ask_writers(volumes, task),
            Command::WithdrawAsk { ask } => self.withdraw_ask(ask),
            Command::OpenSession { owner, ttl_ms } => self.open_session(owner, ttl_ms),
            Command::CloseSession(session) => self.close_session(session),
            Command::ExpireSessions(sessions) => self.expire_sessions(&sessions),
            Command::LockVolume { volume, session } => self.lock_volume(volume, session),
            Command::RelockVolume { volume, session, epoch } => {
                self.relock_volume(volume, session, epoch)
            }
            Command::UnlockVolume { volume, epoch, is_clean } => {
                self.unlock_volume(volume, epoch, is_clean)
            }
            Command::ReserveINodes { volume, epoch, count } => {
                self.reserve_inodes(volume, epoch, count)
            }
            Command::CommitWindow { volume, window } => self.commit_window(volume, window),
            Command::CommitHead { volume, head } => self.commit_head(volume, head),
            Command::CommitSnapshot { volume, epoch, name, size, created_ms, ask } => {
                self.commit_snapshot(volume, epoch, (name, size), created_ms, ask)
            }
            Command::RestoreSnapshot { volume, epoch, snapshot } => {
                self.restore_snapshot(volume, epoch, snapshot)
            }
            Command::CommitFlattened { volume, epoch, ask } => {
                self.commit_flattened(volume, epoch, ask)
            }
            Command::CommitReclaimed { volume, epoch, head } => {
                self.commit_reclaimed(volume, epoch, &head)
            }
            Command::RefuseAsk { volume, epoch, ask, error } => {
                self.refuse_ask(volume, epoch, ask, error)
            }
            Command::ForgetLostVolumes => self.forget_lost_volumes(),
        }
    }

    fn init(&mut self, global: GlobalMetadata, ring: Ring) -> Result<Change, Refusal> {
        if self.global.is_some() {
            return Err(Refusal::AlreadyInitialised);
        }
        if !block_size_is_valid(global.block_size) {
            return Err(Refusal::BLOCK_SIZE);
        }
        if ring.version != RingVersion(1) {
            return Err(Refusal::RingVersion { current: RingVersion(0), found: ring.version });
        }
        rings::validate(&ring)?;
        self.ring = ring.version;
        self.rings.insert(ring.version, ring.clone());
        self.global = Some(global.clone());
        self.generation = 1;
        Change::done(vec![Event::Initialised(global), Event::RingChanged(ring)])
    }

    fn next_revision(&self) -> Revision {
        Revision(self.revision.0 + 1)
    }
}

#[cfg(feature = "member")]
pub(crate) use group::validate_voters_max;
#[cfg(feature = "member")]
pub(crate) use rings::validate as validate_ring;

/// What [`GlobalMetadata::block_size`] may be.
pub fn block_size_is_valid(block_size: u32) -> bool {
    const MIN: u32 = 64 << 10;
    const MAX: u32 = 32 << 20;
    block_size.is_power_of_two() && (MIN..=MAX).contains(&block_size)
}
