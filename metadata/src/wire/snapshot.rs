//! The machine as a file: what a member that lags far behind is sent, and what replaces the log's
//! beginning.
//!
//! The same log gives the same bytes. Integers are little-endian.
//!
//! | offset | size | field    | meaning                                                      |
//! |-------:|-----:|----------|--------------------------------------------------------------|
//! |      0 |    8 | magic    | `TORUSMDS`                                                   |
//! |      8 |    4 | version  | 1                                                            |
//! |     12 |      | records  | each a `u32` length, then a protobuf `SnapshotRecord`; the first is the only one of kind `state` |
//! |      … |    4 | end      | length 0                                                     |
//! |      … |    4 | checksum | CRC-32 of all bytes before it                                |

use std::io::{self, Read, Write};

use prost::Message;

use super::proto::snapshot_record::{self as record, Kind};
use super::{Malformed, peer_id, proto, required};
use crate::dedupe::Answered;
use crate::machine::{Machine, Tenure};
use crate::{
    FeatureLevel, Group, NodeId, Peer, Revision, Ring, RingVersion, Session, State, Volume,
};

const MAGIC: &[u8; 8] = b"TORUSMDS";
const VERSION: u32 = 1;
/// A record is a volume with its windows at most, some hundreds of kilobytes.
const RECORD_MAX: u32 = 64 << 20;

/// A snapshot that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("the snapshot ends early or cannot be read")]
    Read(#[from] io::Error),
    #[error("this is no snapshot of metadata")]
    Magic,
    #[error("the snapshot's format is {found}; this version reads {VERSION}")]
    Version { found: u32 },
    #[error("a record of the snapshot has {found} bytes, more than {RECORD_MAX}")]
    RecordSize { found: u32 },
    #[error("the snapshot's checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum { found: u32, expected: u32 },
    #[error(
        "it is of feature level {level}, and this version of Torus knows {}",
        FeatureLevel::OWN
    )]
    Level { level: FeatureLevel },
    #[error("the snapshot holds a record of an unknown form")]
    Malformed(#[from] Malformed),
}

/// What a snapshot is made of: a copy, so that the log goes on while it is written.
pub(crate) struct Image {
    state: State,
    answered: Answered,
    tenure: Tenure,
}

impl Image {
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn of(machine: &Machine) -> Self {
        Self {
            state: machine.state.clone(),
            answered: machine.answered.clone(),
            tenure: machine.tenure,
        }
    }
}

pub(crate) fn write_snapshot(image: Image, to: &mut dyn Write) -> io::Result<()> {
    let mut to = Summed::new(to);
    to.write_all(MAGIC)?;
    to.write_all(&VERSION.to_le_bytes())?;
    let Image { state, answered, tenure } = image;
    let mut put = |kind| put_record(&mut to, kind);
    put(Kind::State(record::State {
        revision: state.revision.0,
        global: state.global.map(Into::into),
        volumes_minted: state.volumes_minted,
        ring: state.ring.0,
        tenure: tenure.0,
        generation: state.generation,
        level: state.level.0,
        lost: state.lost.into_iter().map(Into::into).collect(),
    }))?;
    for ring in state.rings.into_values() {
        put(Kind::Ring(ring.into()))?;
    }
    for peer in state.peers.into_values() {
        put(Kind::Peer(peer.into()))?;
    }
    for (peer, node) in state.nodes {
        put(Kind::Node(record::Node { peer: peer.encode().to_vec(), node: node.0 }))?;
    }
    for session in state.sessions.into_values() {
        put(Kind::Session(session.into()))?;
    }
    for volume in state.volumes.into_values() {
        put(Kind::Volume(volume.into()))?;
    }
    if state.group != Group::default() {
        put(Kind::Group(state.group.into()))?;
    }
    for (index, request, response) in answered.iter() {
        let (request, response) = (Some(request.into()), Some(response.clone().into()));
        put(Kind::Answered(record::Answered { index, request, response }))?;
    }
    to.write_all(&0u32.to_le_bytes())?;
    let checksum = to.crc.clone().finalize();
    to.inner.write_all(&checksum.to_le_bytes())
}

pub(crate) fn read_snapshot(from: &mut dyn Read) -> Result<Machine, SnapshotError> {
    let mut from = Summed::new(from);
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(SnapshotError::Magic);
    }
    let found = read_u32(&mut from)?;
    if found != VERSION {
        return Err(SnapshotError::Version { found });
    }
    let mut reading = Reading::default();
    loop {
        let length = read_u32(&mut from)?;
        if length == 0 {
            break;
        }
        if length > RECORD_MAX {
            return Err(SnapshotError::RecordSize { found: length });
        }
        // Grows with what really comes: the length may be damaged.
        let mut bytes = Vec::new();
        io::copy(&mut (&mut from).take(length.into()), &mut bytes)?;
        if bytes.len() as u64 != u64::from(length) {
            return Err(SnapshotError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        // Undecodable bytes are most likely damaged ones, but the checksum comes last.
        let record = proto::SnapshotRecord::decode(&*bytes);
        let record = record.map_err(|_| Malformed { what: "a snapshot record" })?;
        reading.take(required(record.kind, "a snapshot record")?)?;
    }
    let found = from.crc.clone().finalize();
    let expected = read_u32(&mut from)?;
    if found != expected {
        return Err(SnapshotError::Checksum { found, expected });
    }
    reading.finish()
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    state: State,
    answered: Answered,
    tenure: Option<Tenure>,
}

impl Reading {
    fn take(&mut self, kind: Kind) -> Result<(), Malformed> {
        let state = &mut self.state;
        match kind {
            Kind::State(head) => {
                state.revision = Revision(head.revision);
                state.global = super::optional(head.global)?;
                state.volumes_minted = head.volumes_minted;
                state.ring = RingVersion(head.ring);
                // Written before there were generations.
                let oldest = u64::from(state.global.is_some());
                state.generation = head.generation.max(oldest);
                state.level = FeatureLevel::from_wire(head.level);
                state.lost = super::all(head.lost)?;
                self.tenure = Some(Tenure(head.tenure));
            }
            Kind::Ring(ring) => {
                let ring: Ring = ring.try_into()?;
                state.rings.insert(ring.version, ring);
            }
            Kind::Peer(peer) => {
                let peer: Peer = peer.try_into()?;
                state.peers.insert(peer.id, peer);
            }
            Kind::Node(node) => {
                state.nodes.insert(peer_id(&node.peer)?, NodeId(node.node));
            }
            Kind::Session(session) => {
                let session: Session = session.into();
                state.sessions.insert(session.id, session);
            }
            Kind::Volume(volume) => {
                let volume: Volume = volume.try_into()?;
                state.names.insert(volume.name.clone(), volume.id);
                state.volumes.insert(volume.id, volume);
            }
            Kind::Group(group) => state.group = group.into(),
            Kind::Answered(answer) => {
                let request = required(answer.request, "a request")?.try_into()?;
                let response = required(answer.response, "a response")?.try_into()?;
                self.answered.remember(answer.index, request, response);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Machine, SnapshotError> {
        let tenure = required(self.tenure, "a snapshot without its first record")?;
        let level = self.state.level;
        if level > FeatureLevel::OWN {
            return Err(SnapshotError::Level { level });
        }
        Ok(Machine::restored(self.state, self.answered, tenure))
    }
}

/// Sums up and counts what passes through.
pub(super) struct Summed<T> {
    pub(super) inner: T,
    pub(super) crc: crc32fast::Hasher,
    pub(super) count: u64,
}

impl<T> Summed<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, crc: crc32fast::Hasher::new(), count: 0 }
    }
}

impl Write for Summed<&mut dyn Write> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Read for Summed<&mut dyn Read> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.crc.update(&buffer[..read]);
        Ok(read)
    }
}

fn put_record(to: &mut impl Write, kind: Kind) -> io::Result<()> {
    let bytes = proto::SnapshotRecord { kind: Some(kind) }.encode_to_vec();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&bytes)
}

fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
