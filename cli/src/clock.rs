//! The time of day, for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::{format_duration, format_rfc3339_seconds};

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "snapshots and checkpoints say when they were made")]
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// As 2026-11-22T18:42:05Z.
pub(crate) fn utc(ms: u64) -> String {
    // The last moment that has four digits for its year.
    const LAST: u64 = 253_402_300_799_000;
    format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms.min(LAST))).to_string()
}

/// How long ago that was, as 3m 20s.
pub(crate) fn age(ms: u64) -> String {
    format_duration(Duration::from_secs(now_ms().saturating_sub(ms) / 1000)).to_string()
}
