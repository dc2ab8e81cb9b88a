//! The NBD protocol: a server for anything that implements [`Export`], and the kernel's own client.
//!
//! The crate knows ranges of bytes and nothing else: what an export is, who may open it and how a
//! write becomes durable is the business of the [`Exports`] that it is given. Clients are strangers:
//! lengths are checked before memory is taken, queues have bounds in requests and bytes, and bytes
//! that make no sense end a connection, never the process.
//!
//! "Section" in a comment means a section of the protocol text, `doc/proto.md` of the project
//! NetworkBlockDevice/nbd.

mod error;
mod export;
mod wire;

mod handshake;
mod negotiate;

mod check;
mod inbox;
mod outbox;
mod pending;
mod reservation;
mod transmission;

mod listener;
pub mod memory;
mod server;

pub mod kernel;
mod netlink;

pub use error::{Errno, ExportError, OpenError};
pub use export::{Export, ExportInfo, Exports, Extent, ReadData, ReadPiece};
pub use listener::{ListenError, Listener};
pub use server::{Server, ServerOptions};
pub use wire::TransmissionFlags;
