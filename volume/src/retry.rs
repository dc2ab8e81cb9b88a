//! How long what does not succeed is tried again.

use std::time::Duration;

/// Between attempts while peers or the metadata service do not answer.
pub(crate) const RETRY: Duration = Duration::from_millis(200);

/// How often a block that nobody has is looked for again: for ten seconds.
pub(crate) const MISSES: u32 = 50;
