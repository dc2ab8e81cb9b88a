//! The stream that `torusctl volume export --format stream` writes and `volume import` reads: a
//! volume as it was at one moment, or what changed between two snapshots of it.
//!
//! It can be written to and read from a pipe, and is checked as it is read: a byte that changed, a
//! chunk that is missing, doubled or out of order and a missing end are all errors.

mod chunk;
mod header;
mod read;
mod write;

pub use chunk::{Chunk, MAX_DATA};
pub use header::{Header, Moment, PREFIX, has_magic};
pub use read::StreamReader;
pub use write::StreamWriter;

/// Why bytes are no stream, or not all of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// These are other bytes.
    #[error("this is no stream of torusctl volume export")]
    Magic,
    /// A newer program can read it.
    #[error("the stream has format version {0}, and this program knows only version 1")]
    Version(u16),
    /// The head of the stream is not as it was written.
    #[error("the header of the stream is damaged")]
    Header,
    /// From here on the stream is not as it was written.
    #[error("the stream is damaged at byte {at}")]
    Damaged { at: u64 },
    /// It was cut off: what comes behind is missing.
    #[error("the stream is cut off at byte {at}")]
    Truncated { at: u64 },
    /// Something follows its end.
    #[error("something stands behind the end of the stream, at byte {at}")]
    Trailing { at: u64 },
    #[error("cannot read the stream")]
    Read(#[source] std::io::Error),
    #[error("cannot write the stream")]
    Write(#[source] std::io::Error),
}

#[cfg(test)]
mod tests;
