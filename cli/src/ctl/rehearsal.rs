//! Tries a command on a state machine of its own, to learn without the cluster whether it can be
//! valid at all.

use torus_blockstore::BlockSpec;
use torus_metadata::{
    Command, GlobalMetadata, Outcome, Refusal, Ring, RingKind, RingVersion, State, Task,
};
use uuid::Uuid;

/// Any valid size does where none is given.
const BLOCK_SIZE: u32 = 512 << 10;

/// Whether a cluster can be like this.
pub(super) fn init(block_size: u32, ring: RingKind, replication: u32) -> Result<(), Refusal> {
    let ring = Ring { version: RingVersion(1), kind: ring, replication, members: Vec::new() };
    begin(block_size, ring).map(|_| ())
}

/// Whether so many members can vote at most.
pub(super) fn voters(number: u32) -> Result<(), Refusal> {
    State::default().apply(1, Command::SetVotersMax(number)).0.map(|_| ())
}

/// Whether there can be such a ring, whatever its version.
pub(super) fn ring(ring: &Ring) -> Result<(), Refusal> {
    begin(BLOCK_SIZE, Ring { version: RingVersion(1), ..ring.clone() }).map(|_| ())
}

/// Whether a volume can have this name and size.
pub(super) fn volume(name: &str, size: u64) -> Result<(), Refusal> {
    let ring =
        Ring { version: RingVersion(1), kind: RingKind::Empty, replication: 1, members: vec![] };
    let mut state = begin(BLOCK_SIZE, ring)?;
    let create = Command::CreateVolume { name: name.to_owned(), size, spec: None };
    state.apply(2, create).0.map(|_| ())
}

/// Whether a snapshot can have this name.
pub(super) fn snapshot(name: &str) -> Result<(), Refusal> {
    let ring =
        Ring { version: RingVersion(1), kind: RingKind::Empty, replication: 1, members: vec![] };
    let mut state = begin(BLOCK_SIZE, ring)?;
    let create = Command::CreateVolume { name: "disk".to_owned(), size: 4096, spec: None };
    let Outcome::Volume(volume) = state.apply(2, create).0?.outcome else { return Ok(()) };
    let open = Command::OpenSession { owner: "torusctl".to_owned(), ttl_ms: 1000 };
    let Outcome::Session(session) = state.apply(3, open).0?.outcome else { return Ok(()) };
    let volume = volume.id;
    state.apply(4, Command::LockVolume { volume, session }).0?;
    let task = Task::Snapshot { name: name.to_owned(), created_ms: 0 };
    state.apply(5, Command::AskWriters { volumes: vec![volume], task }).0.map(|_| ())
}

fn begin(block_size: u32, ring: Ring) -> Result<State, Refusal> {
    let global =
        GlobalMetadata { cluster: Uuid::nil(), block_size, block_spec: BlockSpec::default() };
    let mut state = State::default();
    state.apply(1, Command::Init { global, ring }).0?;
    Ok(state)
}
