//! The data protocol between peers: framed binary messages over one TCP connection.
//!
//! A connection opens with a [`hello`] each way; then the client sends requests and the server
//! replies, each a [`frame`] whose body [`request`] and [`response`] describe. Requests are
//! pipelined; replies carry the request's ID and come in the order in which they are ready.

pub(crate) mod fields;
pub(crate) mod frame;
pub(crate) mod hello;
mod request;
mod response;

pub use request::{Request, StateQuery};
pub use response::{Response, Status};
pub(crate) use response::{decode_reply, encode_reply};

/// How much longer than a block the body of a frame may be: room for its arguments, and for the
/// lists of a small cluster's blocks.
pub(crate) const BODY_EXTRA: u32 = 64 * 1024;

/// Blocks that one request may name.
pub(crate) const BATCH_BLOCKS: usize = 1024;

/// Ranges that one read may name.
pub(crate) const READ_RANGES: usize = 1024;
