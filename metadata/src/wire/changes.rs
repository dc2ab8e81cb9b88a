//! Questions, answers and events.

use std::ops::RangeInclusive;

use super::{Malformed, all, optional, peer_id, proto, required, volume_id};
use crate::{
    Answer, Event, EventKind, FeatureLevel, Query, Revision, RingVersion, SessionId, WatchItem,
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
            proto::EventKind::Unspecified => Err(Malformed { what: "a kind of event" }),
        }
    }
}

impl From<WatchItem> for proto::watch_reply::Kind {
    fn from(item: WatchItem) -> Self {
        match item {
            WatchItem::Events { revision, events } => {
                let events = events.into_iter().map(Into::into).collect();
                Self::Events(proto::watch_reply::Events { revision: revision.0, events })
            }
            WatchItem::Progress(revision) => Self::Progress(revision.0),
        }
    }
}

impl TryFrom<proto::watch_reply::Events> for WatchItem {
    type Error = Malformed;

    fn try_from(changes: proto::watch_reply::Events) -> Result<Self, Malformed> {
        let revision = Revision(changes.revision);
        Ok(Self::Events { revision, events: all(changes.events)? })
    }
}
