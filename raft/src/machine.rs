//! The application that a Raft group replicates.

use std::io::{Read, Result, Write};

/// Writes a pinned state out, on a thread that may block.
pub type SnapshotWriter = Box<dyn FnOnce(&mut dyn Write) -> Result<()> + Send>;

/// A deterministic state machine of opaque commands. All calls are serial.
///
/// It lives in memory: after a restart it is rebuilt by [`restore`](Self::restore) and by applying
/// the log behind the snapshot again, so `apply` must depend on its arguments and on the state
/// alone: no clock, no randomness, no configuration.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies the command of log entry `index` and returns the encoded response.
    ///
    /// A panic stops the node: a member that skips what others applied would differ from them.
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8>;

    /// Pins the present state, cheaply, and returns what writes it out later.
    fn snapshot(&self) -> SnapshotWriter;

    /// Replaces the state by the one that [`snapshot`](Self::snapshot) wrote.
    ///
    /// An error stops the node, so a half replaced state is never used.
    fn restore(&mut self, reader: &mut dyn Read) -> Result<()>;
}
