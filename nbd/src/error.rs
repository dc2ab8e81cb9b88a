//! What an export answers when it cannot do what a client asked.

use std::error::Error;
use std::fmt;

/// An error number of the protocol (section "Error values"); no other number may cross the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Errno {
    /// The export is read-only, or the caller may not do this.
    NotPermitted,
    /// The data cannot be read or made durable.
    Io,
    /// The server has no memory for the request. The protocol asks servers to avoid it.
    NoMemory,
    /// The request makes no sense: range, alignment, flags, or an unknown command.
    Invalid,
    /// There is no space for the write, or it lies past the end.
    NoSpace,
    /// A read is too long to answer at once; the client may retry with less.
    Overflow,
    /// A fast zeroing would not be fast.
    NotSupported,
    /// The server closes down; the client should disconnect.
    ShuttingDown,
}

impl Errno {
    /// The number on the wire.
    pub const fn code(self) -> u32 {
        match self {
            Self::NotPermitted => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::ShuttingDown => 108,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPermitted => "operation not permitted",
            Self::Io => "input/output error",
            Self::NoMemory => "out of memory",
            Self::Invalid => "invalid request",
            Self::NoSpace => "no space left",
            Self::Overflow => "request too large",
            Self::NotSupported => "operation not supported",
            Self::ShuttingDown => "server is shutting down",
        })
    }
}

/// An export's refusal of a request: the number for the client, the cause for our log.
#[derive(Debug, thiserror::Error)]
#[error("{errno}")]
pub struct ExportError {
    errno: Errno,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ExportError {
    /// An error with the cause that the log shows; clients only see the number.
    pub fn new(errno: Errno, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { errno, source: Some(source.into()) }
    }

    /// What the client is told.
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

impl From<Errno> for ExportError {
    fn from(errno: Errno) -> Self {
        Self { errno, source: None }
    }
}

/// Why an export cannot be opened or described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no export of this name, or the client may not know of it.
    #[error("no such export")]
    Unknown,
    /// Somebody else has the export open; the client may retry when they are gone.
    #[error("in use by {by}")]
    InUse { by: String },
    /// The server closes down; another one may serve the export.
    #[error("server is shutting down")]
    ShuttingDown,
    /// The export exists and cannot be opened now. Clients are told no more than that.
    #[error("cannot open the export")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

/// Prints an error with all its causes, for the log.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
