//! Questions, answers and events.

use std::ops::RangeInclusive;

use super::{Malformed, all, optional, peer_id, proto, required, volume_id};
use crate::{
    Answer, Event, EventKind, FeatureLevel, Group, GroupPlace, NodeId, Query, Revision,
    RingVersion, SessionId, WatchItem,
};

impl From<Query> for proto::Query {
    fn from(query: Query) -> Self {
        use proto::query::Kind;
        let nothing = proto::Nothing {};
        let kind = match query {
            Query::Cluster => Kind::Cluster(nothing),
            Query::Volumes => Kind::Volumes(nothing),
            Query::VolumeByName(name) => Kind::VolumeByName(name),
            Query::VolumeById(id) => Kind::VolumeById(id.get()),
            Query::Ring(None) => Kind::Ring(nothing),
            Query::Ring(Some(version)) => Kind::RingVersion(version.0),
            Query::Peers => Kind::Peers(nothing),
            Query::Sessions => Kind::Sessions(nothing),
            Query::Group => Kind::Group(nothing),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Query> for Query {
    type Error = Malformed;

    fn try_from(query: proto::Query) -> Result<Self, Malformed> {
        use proto::query::Kind;
        Ok(match required(query.kind, "a query")? {
            Kind::Cluster(_) => Self::Cluster,
            Kind::Volumes(_) => Self::Volumes,
            Kind::VolumeByName(name) => Self::VolumeByName(name),
            Kind::VolumeById(id) => Self::VolumeById(volume_id(id)?),
            Kind::Ring(_) => Self::Ring(None),
            Kind::RingVersion(version) => Self::Ring(Some(RingVersion(version))),
            Kind::Peers(_) => Self::Peers,
            Kind::Sessions(_) => Self::Sessions,
            Kind::Group(_) => Self::Group,
        })
    }
}

impl From<RangeInclusive<u64>> for proto::VolumeIds {
    fn from(ids: RangeInclusive<u64>) -> Self {
        let (first, last) = ids.into_inner();
        Self { first, last }
    }
}

impl TryFrom<proto::VolumeIds> for RangeInclusive<u64> {
    type Error = Malformed;

    fn try_from(ids: proto::VolumeIds) -> Result<Self, Malformed> {
        if ids.first > ids.last {
            return Err(Malformed { what: "a range of volume IDs" });
        }
        Ok(ids.first..=ids.last)
    }
}

impl From<Answer> for proto::Answer {
    fn from(answer: Answer) -> Self {
        use proto::answer::{self, Kind};
        let (revision, kind) = match answer {
            Answer::Cluster { global, volumes_minted, generation, level, revision } => {
                let (global, level) = (global.map(Into::into), level.0);
                let cluster = answer::Cluster { global, volumes_minted, generation, level };
                (revision, Kind::Cluster(cluster))
            }
            Answer::Volumes { volumes, volumes_minted, lost, revision } => {
                let volumes = volumes.into_iter().map(Into::into).collect();
                let lost = lost.into_iter().map(Into::into).collect();
                (revision, Kind::Volumes(answer::Volumes { volumes, volumes_minted, lost }))
            }
            Answer::Volume { volume, revision } => {
                (revision, Kind::Volume(answer::OneVolume { volume: volume.map(Into::into) }))
            }
            Answer::Ring { ring, revision } => {
                (revision, Kind::Ring(answer::OneRing { ring: ring.map(Into::into) }))
            }
            Answer::Peers { peers, revision } => {
                let peers = peers.into_iter().map(Into::into).collect();
                (revision, Kind::Peers(answer::Peers { peers }))
            }
            Answer::Sessions { sessions, revision } => {
                let sessions = sessions.into_iter().map(Into::into).collect();
                (revision, Kind::Sessions(answer::Sessions { sessions }))
            }
            Answer::Group { group, revision } => (revision, Kind::Group(group.into())),
        };
        Self { revision: revision.0, kind: Some(kind) }
    }
}

impl TryFrom<proto::Answer> for Answer {
    type Error = Malformed;

    fn try_from(answer: proto::Answer) -> Result<Self, Malformed> {
        use proto::answer::{self, Kind};
        let revision = Revision(answer.revision);
        Ok(match required(answer.kind, "an answer")? {
            Kind::Cluster(answer::Cluster { global, volumes_minted, generation, level }) => {
                let level = FeatureLevel::from_wire(level);
                let global = optional(global)?;
                Self::Cluster { global, volumes_minted, generation, level, revision }
            }
            Kind::Volumes(answer::Volumes { volumes, volumes_minted, lost }) => {
                let (volumes, lost) = (all(volumes)?, all(lost)?);
                Self::Volumes { volumes, volumes_minted, lost, revision }
            }
            Kind::Volume(one) => Self::Volume { volume: optional(one.volume)?, revision },
            Kind::Ring(one) => Self::Ring { ring: optional(one.ring)?, revision },
            Kind::Peers(answer::Peers { peers }) => Self::Peers { peers: all(peers)?, revision },
            Kind::Sessions(answer::Sessions { sessions }) => {
                let sessions = sessions.into_iter().map(Into::into).collect();
                Self::Sessions { sessions, revision }
            }
            Kind::Group(group) => Self::Group { group: group.into(), revision },
        })
    }
}

impl From<Event> for proto::Event {
    fn from(event: Event) -> Self {
        use proto::event::Kind;
        let kind = match event {
            Event::Initialised(global) => Kind::Initialised(global.into()),
            Event::PeerChanged(peer) => Kind::PeerChanged(peer.into()),
            Event::PeerRemoved(peer) => Kind::PeerRemoved(peer.encode().to_vec()),
            Event::RingChanged(ring) => Kind::RingChanged(ring.into()),
            Event::VolumeChanged(volume) => Kind::VolumeChanged(volume.into()),
            Event::VolumeDeleted(id) => Kind::VolumeDeleted(id.get()),
            Event::SessionOpened(session) => Kind::SessionOpened(session.into()),
            Event::SessionEnded(session) => Kind::SessionEnded(session.0),
            Event::GroupChanged(group) => Kind::GroupChanged(group.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Event> for Event {
    type Error = Malformed;

    fn try_from(event: proto::Event) -> Result<Self, Malformed> {
        use proto::event::Kind;
        Ok(match required(event.kind, "an event")? {
            Kind::Initialised(global) => Self::Initialised(global.try_into()?),
            Kind::PeerChanged(peer) => Self::PeerChanged(peer.try_into()?),
            Kind::PeerRemoved(peer) => Self::PeerRemoved(peer_id(&peer)?),
            Kind::RingChanged(ring) => Self::RingChanged(ring.try_into()?),
            Kind::VolumeChanged(volume) => Self::VolumeChanged(volume.try_into()?),
            Kind::VolumeDeleted(id) => Self::VolumeDeleted(volume_id(id)?),
            Kind::SessionOpened(session) => Self::SessionOpened(session.into()),
            Kind::SessionEnded(session) => Self::SessionEnded(SessionId(session)),
            Kind::GroupChanged(group) => Self::GroupChanged(group.into()),
        })
    }
}

impl From<EventKind> for proto::EventKind {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Cluster => Self::Cluster,
            EventKind::Peer => Self::Peer,
            EventKind::Ring => Self::Ring,
            EventKind::Volume => Self::Volume,
            EventKind::Session => Self::Session,
            EventKind::Member => Self::Member,
        }
    }
}

impl TryFrom<proto::EventKind> for EventKind {
    type Error = Malformed;

    fn try_from(kind: proto::EventKind) -> Result<Self, Malformed> {
        match kind {
            proto::EventKind::Cluster => Ok(Self::Cluster),
            proto::EventKind::Peer => Ok(Self::Peer),
            proto::EventKind::Ring => Ok(Self::Ring),
            proto::EventKind::Volume => Ok(Self::Volume),
            proto::EventKind::Session => Ok(Self::Session),
            proto::EventKind::Member => Ok(Self::Member),
            proto::EventKind::Unspecified => Err(Malformed { what: "a kind of event" }),
        }
    }
}

impl From<Group> for proto::Group {
    fn from(group: Group) -> Self {
        let place = |place: GroupPlace| proto::group::Place {
            node: place.node.0,
            address: place.address,
            votes: place.votes,
        };
        let members = group.members.into_iter().map(place).collect();
        Self { voters_max: group.voters_max, members, joint: group.joint }
    }
}

impl From<proto::Group> for Group {
    fn from(group: proto::Group) -> Self {
        let place = |place: proto::group::Place| GroupPlace {
            node: NodeId(place.node),
            address: place.address,
            votes: place.votes,
        };
        let members = group.members.into_iter().map(place).collect();
        Self { voters_max: group.voters_max, members, joint: group.joint }
    }
}

/// Things of a list that one message carries: at most 1 MiB of volumes as they usually are.
const PART: usize = 1000;

/// The messages that say `item`: a long list takes several.
pub(crate) fn watch_replies(item: WatchItem) -> Vec<proto::watch_reply::Kind> {
    use proto::watch_reply::{Events, Kind, Listed};
    match item {
        WatchItem::Events { revision, events } => {
            let events = events.into_iter().map(Into::into).collect();
            vec![Kind::Events(Events { revision: revision.0, events })]
        }
        WatchItem::Progress(revision) => vec![Kind::Progress(revision.0)],
        WatchItem::Listed(answer) => {
            let mut parts = parts(answer).into_iter().peekable();
            let mut replies = Vec::new();
            while let Some(part) = parts.next() {
                let more = parts.peek().is_some();
                replies.push(Kind::Listed(Listed { answer: Some(part.into()), more }));
            }
            replies
        }
    }
}

/// The answer in parts of up to [`PART`] things; at least one, maybe empty.
fn parts(answer: Answer) -> Vec<Answer> {
    fn cut<T: Clone>(things: &[T], part: impl Fn(Vec<T>) -> Answer) -> Vec<Answer> {
        if things.is_empty() {
            return vec![part(Vec::new())];
        }
        things.chunks(PART).map(|things| part(things.to_vec())).collect()
    }
    match answer {
        Answer::Volumes { volumes, volumes_minted, lost, revision } => cut(&volumes, |volumes| {
            Answer::Volumes { volumes, volumes_minted, lost: lost.clone(), revision }
        }),
        Answer::Peers { peers, revision } => cut(&peers, |peers| Answer::Peers { peers, revision }),
        Answer::Sessions { sessions, revision } => {
            cut(&sessions, |sessions| Answer::Sessions { sessions, revision })
        }
        answer => vec![answer],
    }
}

/// Puts the parts of a list together again.
#[derive(Default)]
pub(crate) struct Parts(Option<Answer>);

impl Parts {
    /// Takes the next part; gives the whole with the last.
    pub(crate) fn take(
        &mut self,
        listed: proto::watch_reply::Listed,
    ) -> Result<Option<Answer>, Malformed> {
        let mut next: Answer = required(listed.answer, "a part of a list")?.try_into()?;
        match (self.0.take(), &mut next) {
            (None, _) => {}
            (Some(Answer::Volumes { volumes: mut all, .. }), Answer::Volumes { volumes, .. }) => {
                all.append(volumes);
                *volumes = all;
            }
            (Some(Answer::Peers { peers: mut all, .. }), Answer::Peers { peers, .. }) => {
                all.append(peers);
                *peers = all;
            }
            (
                Some(Answer::Sessions { sessions: mut all, .. }),
                Answer::Sessions { sessions, .. },
            ) => {
                all.append(sessions);
                *sessions = all;
            }
            (Some(_), _) => return Err(Malformed { what: "a part of a list" }),
        }
        if listed.more {
            self.0 = Some(next);
            return Ok(None);
        }
        Ok(Some(next))
    }
}

impl TryFrom<proto::watch_reply::Events> for WatchItem {
    type Error = Malformed;

    fn try_from(changes: proto::watch_reply::Events) -> Result<Self, Malformed> {
        let revision = Revision(changes.revision);
        Ok(Self::Events { revision, events: all(changes.events)? })
    }
}
