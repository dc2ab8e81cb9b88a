//! How members talk: by the messages of `proto/raft.proto`, over long-lived connections, those of
//! gRPC and [lines](line).
//!
//! Every request names the group and the node that it is meant for. An address may come to belong
//! to another node, and a message that reached that one would be an answer from the wrong log.

mod appends;
mod channels;
mod client;
mod division;
mod line;
mod server;

use tonic::Status;

pub(crate) use channels::Channels;
pub(crate) use client::read_index;
pub use division::{MEMBER, Rewound, divide};
pub(crate) use server::Receiver;
pub use server::Transport;

use crate::options::Identity;
use crate::wire::proto;

/// The envelope of a request from `from` to `target`.
fn envelope(from: Identity, target: u64) -> proto::Envelope {
    proto::Envelope { group: from.group.to_vec().into(), source: from.node, target }
}

/// Refuses a request that is meant for another group or node.
fn admit(to: Identity, envelope: Option<&proto::Envelope>) -> Result<(), Status> {
    let envelope = envelope.ok_or_else(|| Status::invalid_argument("no envelope"))?;
    if envelope.group.as_ref() != to.group {
        return Err(Status::failed_precondition("this node belongs to another group"));
    }
    if envelope.target != to.node {
        let text = format!("this is node {}, not node {}", to.node, envelope.target);
        return Err(Status::failed_precondition(text));
    }
    Ok(())
}

#[cfg(test)]
#[cfg(feature = "rocksdb")]
mod tests;
