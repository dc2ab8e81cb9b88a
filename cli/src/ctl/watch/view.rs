//! What a watcher has seen, and what the next step changes in it. Pure.
//!
//! Heads and locks are parts of a volume's record; they are shown apart, because they change apart.

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum;
use serde_json::{Value, json};
use torus_blockstore::{PeerId, VolumeId};
use torus_metadata::{
    Answer, Event, EventKind, Followed, GlobalMetadata, Group, Peer, Revision, Ring, Session,
    SessionId, Volume,
};

use crate::ctl::report::count;
use crate::ctl::ring::kind_name;
use crate::ctl::volume::facts;
use crate::size::Bytes;

/// What can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(in crate::ctl) enum Kind {
    /// What `init` wrote.
    Cluster,
    /// The ring.
    #[value(alias = "rings")]
    Ring,
    /// The daemons that store blocks.
    #[value(alias = "peer")]
    Peers,
    /// Volumes: all but their heads and locks.
    #[value(alias = "volume")]
    Volumes,
    /// Checkpoints of volumes.
    #[value(alias = "head")]
    Heads,
    /// Who has a volume open.
    #[value(alias = "lock")]
    Locks,
    /// Clients that keep themselves alive.
    #[value(alias = "session")]
    Sessions,
    /// The Raft group.
    #[value(alias = "member")]
    Members,
}

impl Kind {
    /// The events that tell of it.
    pub(super) fn events(self) -> EventKind {
        match self {
            Self::Cluster => EventKind::Cluster,
            Self::Ring => EventKind::Ring,
            Self::Peers => EventKind::Peer,
            Self::Volumes | Self::Heads | Self::Locks => EventKind::Volume,
            Self::Sessions => EventKind::Session,
            Self::Members => EventKind::Member,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Ring => "ring",
            Self::Peers => "peer",
            Self::Volumes => "volume",
            Self::Heads => "head",
            Self::Locks => "lock",
            Self::Sessions => "session",
            Self::Members => "members",
        }
    }
}

/// One thing that happened.
#[derive(Debug)]
pub(super) struct Line {
    /// `None`: of no interest to people.
    pub(super) text: Option<String>,
    pub(super) json: Value,
}

/// How a thing came into view.
#[derive(Clone, Copy)]
enum Action {
    /// It was there when the watch began.
    Is,
    New,
    Changed,
    Gone,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Is => "is",
            Self::New => "new",
            Self::Changed => "changed",
            Self::Gone => "gone",
        }
    }
}

/// All that is known.
pub(super) struct View {
    /// Empty: all.
    kinds: BTreeSet<Kind>,
    volumes: BTreeMap<VolumeId, Volume>,
    peers: BTreeMap<PeerId, Peer>,
    sessions: BTreeMap<SessionId, Session>,
    /// What was listed: of other kinds it is not known what was there before.
    listed: BTreeSet<EventKind>,
}

impl View {
    pub(super) fn new(kinds: BTreeSet<Kind>) -> Self {
        Self {
            kinds,
            volumes: BTreeMap::new(),
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            listed: BTreeSet::new(),
        }
    }

    /// Takes the next step; says what there is to print.
    pub(super) fn take(&mut self, step: Followed) -> Vec<Line> {
        match step {
            Followed::Listed(answer) => self.list(answer),
            Followed::Changed { revision, events } => {
                let lines = events.into_iter().flat_map(|event| self.change(revision, event));
                lines.collect()
            }
            Followed::Current(revision) => {
                vec![Line { text: None, json: json!({ "progress": revision.0 }) }]
            }
            Followed::Compacted(revision) => {
                let text = format!(
                    "compacted: what changed up to revision {revision} is no longer kept; all there \
                     is follows"
                );
                vec![Line { text: Some(text), json: json!({ "compacted": revision.0 }) }]
            }
            Followed::Interrupted(error) => {
                vec![Line { text: None, json: json!({ "interrupted": error.to_string() }) }]
            }
        }
    }

    fn list(&mut self, answer: Answer) -> Vec<Line> {
        let at = answer.revision();
        match answer {
            Answer::Cluster { global, .. } => {
                self.listed.insert(EventKind::Cluster);
                global.iter().filter_map(|global| self.cluster(at, Action::Is, global)).collect()
            }
            Answer::Ring { ring, .. } => {
                self.listed.insert(EventKind::Ring);
                ring.iter().filter_map(|ring| self.ring(at, Action::Is, ring)).collect()
            }
            Answer::Peers { peers, .. } => {
                self.listed.insert(EventKind::Peer);
                self.peers.clear();
                let mut lines = Vec::new();
                for peer in peers {
                    lines.extend(self.peer(at, Action::Is, &peer));
                    self.peers.insert(peer.id, peer);
                }
                lines
            }
            Answer::Volumes { volumes, .. } => {
                self.listed.insert(EventKind::Volume);
                self.volumes.clear();
                let mut lines = Vec::new();
                for volume in volumes {
                    lines.extend(self.volume(at, Action::Is, &volume, None));
                    lines.extend(self.head(at, Action::Is, &volume));
                    lines.extend(self.lock(at, Action::Is, &volume));
                    self.volumes.insert(volume.id, volume);
                }
                lines
            }
            Answer::Sessions { sessions, .. } => {
                self.listed.insert(EventKind::Session);
                self.sessions.clear();
                let mut lines = Vec::new();
                for session in sessions {
                    lines.extend(self.session(at, Action::Is, &session));
                    self.sessions.insert(session.id, session);
                }
                lines
            }
            Answer::Group { group, .. } => {
                self.listed.insert(EventKind::Member);
                self.group(at, Action::Is, &group).into_iter().collect()
            }
            // No list of a kind.
            Answer::Volume { .. } => Vec::new(),
        }
    }

    fn change(&mut self, at: Revision, event: Event) -> Vec<Line> {
        match event {
            Event::Initialised(global) => {
                self.cluster(at, Action::New, &global).into_iter().collect()
            }
            Event::RingChanged(ring) => self.ring(at, Action::Changed, &ring).into_iter().collect(),
            Event::GroupChanged(group) => {
                self.group(at, Action::Changed, &group).into_iter().collect()
            }
            Event::PeerChanged(peer) => {
                let action = match self.peers.insert(peer.id, peer.clone()) {
                    None if self.listed.contains(&EventKind::Peer) => Action::New,
                    _ => Action::Changed,
                };
                self.peer(at, action, &peer).into_iter().collect()
            }
            Event::PeerRemoved(id) => match self.peers.remove(&id) {
                Some(peer) => self.peer(at, Action::Gone, &peer).into_iter().collect(),
                None => {
                    let json = json!({ "uuid": id.to_string() });
                    self.line(at, Action::Gone, Kind::Peers, id.to_string(), json)
                        .into_iter()
                        .collect()
                }
            },
            Event::SessionOpened(session) => {
                self.sessions.insert(session.id, session.clone());
                self.session(at, Action::New, &session).into_iter().collect()
            }
            Event::SessionEnded(id) => match self.sessions.remove(&id) {
                Some(session) => self.session(at, Action::Gone, &session).into_iter().collect(),
                None => {
                    let json = json!({ "id": id.0 });
                    self.line(at, Action::Gone, Kind::Sessions, id.to_string(), json)
                        .into_iter()
                        .collect()
                }
            },
            Event::VolumeChanged(volume) => self.volume_changed(at, volume),
            Event::VolumeDeleted(id) => match self.volumes.remove(&id) {
                Some(volume) => self.volume(at, Action::Gone, &volume, None).into_iter().collect(),
                None => {
                    let json = json!({ "id": id.get() });
                    self.line(at, Action::Gone, Kind::Volumes, format!("number {id}"), json)
                        .into_iter()
                        .collect()
                }
            },
        }
    }

    fn volume_changed(&mut self, at: Revision, volume: Volume) -> Vec<Line> {
        let mut lines = Vec::new();
        match self.volumes.get(&volume.id) {
            None => {
                let is_new = self.listed.contains(&EventKind::Volume);
                let action = if is_new { Action::New } else { Action::Changed };
                lines.extend(self.volume(at, action, &volume, None));
                lines.extend(
                    volume.head.is_some().then(|| self.head(at, action, &volume)).flatten(),
                );
                lines.extend(
                    volume.lock.is_some().then(|| self.lock(at, action, &volume)).flatten(),
                );
            }
            Some(before) => {
                let parts = changed_parts(before, &volume);
                if !parts.is_empty() {
                    lines.extend(self.volume(at, Action::Changed, &volume, Some(&parts)));
                }
                if before.head != volume.head {
                    lines.extend(self.head(at, Action::Changed, &volume));
                }
                if before.lock != volume.lock {
                    lines.extend(self.lock(at, Action::Changed, &volume));
                }
            }
        }
        self.volumes.insert(volume.id, volume);
        lines
    }

    fn volume(
        &self,
        at: Revision,
        action: Action,
        volume: &Volume,
        parts: Option<&[&str]>,
    ) -> Option<Line> {
        let mut text = format!("{}, {}", volume.name, Bytes(volume.size));
        let mut json = facts(volume, &[]);
        if let Some(parts) = parts {
            text.push_str(&format!(": {}", parts.join(", ")));
            json["changed"] = json!(parts);
        }
        self.line(at, action, Kind::Volumes, text, json)
    }

    fn head(&self, at: Revision, action: Action, volume: &Volume) -> Option<Line> {
        let head = volume.head.as_ref()?;
        let text = format!(
            "{}: INode {}, {} (epoch {})",
            volume.name,
            head.inode.0,
            count(usize::try_from(head.blocks).unwrap_or(usize::MAX), "block"),
            head.epoch
        );
        let json = json!({
            "volume": volume.name,
            "id": volume.id.get(),
            "of": head.volume.get(),
            "inode": head.inode.0,
            "blocks": head.blocks,
            "epoch": head.epoch.0,
        });
        self.line(at, action, Kind::Heads, text, json)
    }

    fn lock(&self, at: Revision, action: Action, volume: &Volume) -> Option<Line> {
        let (name, id) = (&volume.name, volume.id.get());
        match &volume.lock {
            Some(lock) => {
                let text = format!(
                    "{name}: by {} (session {}, epoch {})",
                    lock.owner, lock.session, lock.epoch
                );
                let json = json!({
                    "volume": name,
                    "id": id,
                    "owner": lock.owner,
                    "session": lock.session.0,
                    "epoch": lock.epoch.0,
                });
                self.line(at, action, Kind::Locks, text, json)
            }
            None if matches!(action, Action::Is) => None,
            None => {
                let json = json!({ "volume": name, "id": id });
                self.line(at, Action::Gone, Kind::Locks, name.clone(), json)
            }
        }
    }

    fn cluster(&self, at: Revision, action: Action, global: &GlobalMetadata) -> Option<Line> {
        let text = format!(
            "{}, blocks of {}, {}",
            global.cluster,
            Bytes(global.block_size.into()),
            global.block_spec
        );
        let json = json!({
            "id": global.cluster.to_string(),
            "block_size": global.block_size,
            "block_spec": global.block_spec.to_string(),
        });
        self.line(at, action, Kind::Cluster, text, json)
    }

    fn ring(&self, at: Revision, action: Action, ring: &Ring) -> Option<Line> {
        let text = format!(
            "version {}, {}, replication {}, {}",
            ring.version,
            kind_name(ring.kind),
            ring.replication,
            count(ring.members.len(), "peer")
        );
        let json = json!({
            "version": ring.version.0,
            "kind": kind_name(ring.kind),
            "replication": ring.replication,
            "peers": ring.members.iter().map(|it| it.peer.to_string()).collect::<Vec<_>>(),
        });
        self.line(at, action, Kind::Ring, text, json)
    }

    fn group(&self, at: Revision, action: Action, group: &Group) -> Option<Line> {
        let member = |member: &torus_metadata::GroupPlace| {
            let role = if member.votes { "voter" } else { "learner" };
            format!("{} at {} ({role})", member.node, member.address)
        };
        let members: Vec<_> = group.members.iter().map(member).collect();
        let change = if group.joint { "; a change is under way" } else { "" };
        let text = format!("{}{change}", members.join(", "));
        let json = json!({
            "voters_max": group.voters_max,
            "joint": group.joint,
            "members": group.members.iter().map(|it| json!({
                "id": it.node.0,
                "address": it.address,
                "role": if it.votes { "voter" } else { "learner" },
            })).collect::<Vec<_>>(),
        });
        self.line(at, action, Kind::Members, text, json)
    }

    fn peer(&self, at: Revision, action: Action, peer: &Peer) -> Option<Line> {
        let zone =
            if peer.zone.is_empty() { String::new() } else { format!(", zone {}", peer.zone) };
        let text = format!("{} ({}){zone}", peer.address, peer.id);
        let json = json!({
            "uuid": peer.id.to_string(),
            "address": peer.address,
            "zone": peer.zone,
            "size_blocks": peer.size_blocks,
            "node": peer.node.map(|node| node.0),
        });
        self.line(at, action, Kind::Peers, text, json)
    }

    fn session(&self, at: Revision, action: Action, session: &Session) -> Option<Line> {
        let text = format!("{}: {}, {} ms", session.id, session.owner, session.ttl_ms);
        let json = json!({
            "id": session.id.0,
            "owner": session.owner,
            "ttl_ms": session.ttl_ms,
        });
        self.line(at, action, Kind::Sessions, text, json)
    }

    fn line(
        &self,
        at: Revision,
        action: Action,
        kind: Kind,
        text: String,
        what: Value,
    ) -> Option<Line> {
        if !self.kinds.is_empty() && !self.kinds.contains(&kind) {
            return None;
        }
        let name = kind.name();
        let text = format!("{:>8}  {:<7}  {name:<7}  {text}", at.0, action.name());
        let json = json!({ "revision": at.0, "action": action.name(), "kind": name, (name): what });
        Some(Line { text: Some(text), json })
    }
}

/// What else than the head and the lock differs, in words.
fn changed_parts(before: &Volume, after: &Volume) -> Vec<&'static str> {
    let parts = [
        ("name", before.name != after.name),
        ("size", before.size != after.size),
        ("block spec", before.block_spec != after.block_spec),
        ("snapshots", before.snapshots != after.snapshots),
        ("parent", before.parent != after.parent),
        ("windows", before.windows != after.windows || before.inode_index != after.inode_index),
        ("retired", before.retired != after.retired),
        ("asks", before.asks != after.asks || before.answers != after.answers),
    ];
    parts.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part).collect()
}

#[cfg(test)]
mod tests;
