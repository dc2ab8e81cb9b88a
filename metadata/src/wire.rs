//! Protobuf: the only place that knows the messages. Everything outside speaks the domain's types.
//!
//! Items are `pub` where a conversion of a public type names them; the module is private.
//!
//! Decoding checks what the types promise and nothing more; whether a command makes sense is the
//! state machine's to say.

mod admin;
mod asks;
mod backup;
mod calls;
mod changes;
mod commands;
mod kept;
mod log;
mod refusals;
mod snapshot;
#[cfg(test)]
mod tests;
mod volumes;

pub(crate) use backup::{decode_backup, write_backup};
pub(crate) use calls::{Failure, KeptAlive};
pub(crate) use changes::{Parts, watch_replies};
pub(crate) use log::{decode_proposal, decode_response, encode_proposal, encode_response};
pub(crate) use snapshot::{Image, SnapshotError, read_snapshot, write_snapshot};

use torus_blockstore::{PeerId, VolumeId};

/// The generated messages and services.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub(crate) mod proto {
    tonic::include_proto!("torus.metadata.v1");
}

/// Bytes or a message that make no sense to this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be understood")]
pub struct Malformed {
    pub(crate) what: &'static str,
}

impl From<Malformed> for crate::Error {
    fn from(malformed: Malformed) -> Self {
        Self::Protocol { what: malformed.what }
    }
}

/// The message in a field, which must be there.
fn required<M>(field: Option<M>, what: &'static str) -> Result<M, Malformed> {
    field.ok_or(Malformed { what })
}

fn all<D, M: TryInto<D, Error = Malformed>>(messages: Vec<M>) -> Result<Vec<D>, Malformed> {
    messages.into_iter().map(TryInto::try_into).collect()
}

fn optional<D, M: TryInto<D, Error = Malformed>>(
    message: Option<M>,
) -> Result<Option<D>, Malformed> {
    message.map(TryInto::try_into).transpose()
}

fn peer_id(bytes: &[u8]) -> Result<PeerId, Malformed> {
    let bytes = bytes.try_into().map_err(|_| Malformed { what: "a peer's name" })?;
    Ok(PeerId::decode(bytes))
}

fn volume_id(raw: u64) -> Result<VolumeId, Malformed> {
    VolumeId::new(raw).ok_or(Malformed { what: "a volume's ID" })
}
