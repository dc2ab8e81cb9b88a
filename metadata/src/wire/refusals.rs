//! Refusals.

use torus_blockstore::Epoch;

use super::proto::refusal::{self, Kind};
use super::{Malformed, proto, required, volume_id};
use crate::reasons;
use crate::{FeatureLevel, Refusal, RingVersion};

impl From<Refusal> for proto::Refusal {
    fn from(refusal: Refusal) -> Self {
        let nothing = proto::Nothing {};
        let kind = match refusal {
            Refusal::AlreadyInitialised => Kind::AlreadyInitialised(nothing),
            Refusal::NotInitialised => Kind::NotInitialised(nothing),
            Refusal::Invalid { what, why } => Kind::Invalid(reasons::number(what, why)),
            Refusal::VolumeExists { name } => Kind::VolumeExists(name),
            Refusal::NoSuchVolume { name } => Kind::NoSuchVolume(name),
            Refusal::NoSuchVolumeId { id } => Kind::NoSuchVolumeId(id.get()),
            Refusal::InUse { name, owner } => Kind::InUse(refusal::InUse { name, owner }),
            Refusal::StaleEpoch { found, current } => {
                Kind::StaleEpoch(refusal::StaleEpoch { found: found.0, current: current.0 })
            }
            Refusal::NotLocked { epoch } => Kind::NotLocked(epoch.0),
            Refusal::NoSuchSession => Kind::NoSuchSession(nothing),
            Refusal::RingVersion { current, found } => {
                Kind::RingVersion(refusal::RingVersion { current: current.0, found: found.0 })
            }
            Refusal::NoSuchRing(version) => Kind::NoSuchRing(version.0),
            Refusal::NoSuchPeer => Kind::NoSuchPeer(nothing),
            Refusal::PeerInRing => Kind::PeerInRing(nothing),
            Refusal::PeerInWindow => Kind::PeerInWindow(nothing),
            Refusal::Superseded => Kind::Superseded(nothing),
            Refusal::WindowOrder => Kind::WindowOrder(nothing),
            Refusal::HeadOrder => Kind::HeadOrder(nothing),
            Refusal::SnapshotExists { volume, snapshot } => {
                Kind::SnapshotExists(refusal::Named { volume, snapshot })
            }
            Refusal::NoSuchSnapshot { volume } => Kind::NoSuchSnapshot(volume),
            Refusal::HasClones { volume, snapshot, clones } => {
                Kind::HasClones(refusal::HasClones { volume, snapshot, clones })
            }
            Refusal::HasSnapshots { volume, snapshots } => {
                Kind::HasSnapshots(refusal::HasSnapshots { volume, snapshots })
            }
            Refusal::SnapshotInUse { volume, snapshot } => {
                Kind::SnapshotInUse(refusal::Named { volume, snapshot })
            }
            Refusal::NoWriter { name } => Kind::NoWriter(name),
            Refusal::SeveralWriters => Kind::SeveralWriters(nothing),
            Refusal::HeadBehind => Kind::HeadBehind(nothing),
            Refusal::Shrinks => Kind::Shrinks(nothing),
            Refusal::NoSuchAsk => Kind::NoSuchAsk(nothing),
            Refusal::Level { needed, present } => {
                Kind::Level(refusal::Level { needed: needed.0, present: present.0 })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<proto::Refusal> for Refusal {
    type Error = Malformed;

    fn try_from(refusal: proto::Refusal) -> Result<Self, Malformed> {
        Ok(match required(refusal.kind, "a refusal")? {
            Kind::AlreadyInitialised(_) => Self::AlreadyInitialised,
            Kind::NotInitialised(_) => Self::NotInitialised,
            Kind::Invalid(reason) => Self::from_reason(reason),
            Kind::VolumeExists(name) => Self::VolumeExists { name },
            Kind::NoSuchVolume(name) => Self::NoSuchVolume { name },
            Kind::NoSuchVolumeId(id) => Self::NoSuchVolumeId { id: volume_id(id)? },
            Kind::InUse(refusal::InUse { name, owner }) => Self::InUse { name, owner },
            Kind::StaleEpoch(refusal::StaleEpoch { found, current }) => {
                Self::StaleEpoch { found: Epoch(found), current: Epoch(current) }
            }
            Kind::NotLocked(epoch) => Self::NotLocked { epoch: Epoch(epoch) },
            Kind::NoSuchSession(_) => Self::NoSuchSession,
            Kind::RingVersion(refusal::RingVersion { current, found }) => {
                Self::RingVersion { current: RingVersion(current), found: RingVersion(found) }
            }
            Kind::NoSuchRing(version) => Self::NoSuchRing(RingVersion(version)),
            Kind::NoSuchPeer(_) => Self::NoSuchPeer,
            Kind::PeerInRing(_) => Self::PeerInRing,
            Kind::PeerInWindow(_) => Self::PeerInWindow,
            Kind::Superseded(_) => Self::Superseded,
            Kind::WindowOrder(_) => Self::WindowOrder,
            Kind::HeadOrder(_) => Self::HeadOrder,
            Kind::SnapshotExists(refusal::Named { volume, snapshot }) => {
                Self::SnapshotExists { volume, snapshot }
            }
            Kind::NoSuchSnapshot(volume) => Self::NoSuchSnapshot { volume },
            Kind::HasClones(refusal::HasClones { volume, snapshot, clones }) => {
                Self::HasClones { volume, snapshot, clones }
            }
            Kind::HasSnapshots(refusal::HasSnapshots { volume, snapshots }) => {
                Self::HasSnapshots { volume, snapshots }
            }
            Kind::SnapshotInUse(refusal::Named { volume, snapshot }) => {
                Self::SnapshotInUse { volume, snapshot }
            }
            Kind::NoWriter(name) => Self::NoWriter { name },
            Kind::SeveralWriters(_) => Self::SeveralWriters,
            Kind::HeadBehind(_) => Self::HeadBehind,
            Kind::Shrinks(_) => Self::Shrinks,
            Kind::NoSuchAsk(_) => Self::NoSuchAsk,
            Kind::Level(refusal::Level { needed, present }) => {
                Self::Level { needed: FeatureLevel(needed), present: FeatureLevel(present) }
            }
        })
    }
}
