//! The application that a Raft group replicates.

use std::io::{Read, Result, Write};

use crate::status::Member;

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

    /// Takes note of a membership entry: from it on the group has these members, `joint` while a
    /// change of the voters is half done. In the order of the log among the commands; a snapshot
    /// must remember it if it matters.
    fn regroup(&mut self, members: &[Member], joint: bool) {
        // Most machines do not care.
        let _ = (members, joint);
    }

    /// Pins the present state, cheaply, and returns what writes it out later.
    fn snapshot(&self) -> SnapshotWriter;

    /// Replaces the state by the one that [`snapshot`](Self::snapshot) wrote.
    ///
    /// An error stops the node, so a half replaced state is never used.
    fn restore(&mut self, reader: &mut dyn Read) -> Result<()>;
}
