//! Who has been silent for how long: the leader's memory of its sessions.
//!
//! Pure: the driver says what time it is. A session's time is a lower bound; it is never cut short.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Session, SessionId};

/// The sessions and when their time is over.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    sessions: BTreeMap<SessionId, Deadline>,
}

#[derive(Debug)]
struct Deadline {
    ttl: Duration,
    at: Instant,
    /// Its end was proposed, so it cannot be prolonged until the proposal is decided.
    ending: bool,
}

/// What a keep-alive met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Prolonged,
    /// It is being ended; ask again.
    Ending,
    Unknown,
}

impl Deadlines {
    /// Takes up sessions that are new in `present`, each with its full time and `extra` from `now`
    /// on, and drops those that have ended.
    pub(crate) fn follow<'a>(
        &mut self,
        present: impl Iterator<Item = &'a Session>,
        now: Instant,
        extra: Duration,
    ) {
        let mut old = std::mem::take(&mut self.sessions);
        for session in present {
            let deadline = old.remove(&session.id).unwrap_or_else(|| {
                let ttl = Duration::from_millis(session.ttl_ms.into());
                Deadline { ttl, at: now + ttl + extra, ending: false }
            });
            self.sessions.insert(session.id, deadline);
        }
    }

    /// The session's owner has spoken.
    pub(crate) fn heard(&mut self, session: SessionId, now: Instant) -> Heard {
        match self.sessions.get_mut(&session) {
            None => Heard::Unknown,
            Some(deadline) if deadline.ending => Heard::Ending,
            Some(deadline) => {
                deadline.at = deadline.at.max(now + deadline.ttl);
                Heard::Prolonged
            }
        }
    }

    /// Up to `limit` sessions whose time is over; they are marked as ending.
    pub(crate) fn due(&mut self, now: Instant, limit: usize) -> Vec<SessionId> {
        let over = self.sessions.iter_mut().filter(|(_, d)| d.at <= now && !d.ending);
        let marked = over.take(limit).map(|(id, deadline)| {
            deadline.ending = true;
            *id
        });
        marked.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: u64, ttl_ms: u32) -> Session {
        Session { id: SessionId(id), owner: "host".to_owned(), ttl_ms }
    }

    #[test]
    fn a_session_has_its_full_time_and_no_less() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut deadlines = Deadlines::default();
        let present = [session(1, 1000), session(2, 2000)];
        deadlines.follow(present.iter(), start, Duration::from_millis(500));
        assert_eq!(deadlines.due(at(1499), 9), []);
        assert_eq!(deadlines.heard(SessionId(1), at(1400)), Heard::Prolonged);
        assert_eq!(deadlines.due(at(2399), 9), []);
        assert_eq!(deadlines.due(at(2500), 9), [SessionId(1), SessionId(2)]);
        assert_eq!(deadlines.due(at(2500), 9), []);
        assert_eq!(deadlines.heard(SessionId(1), at(2600)), Heard::Ending);
        deadlines.follow([].iter(), at(2600), Duration::ZERO);
        assert_eq!(deadlines.heard(SessionId(1), at(2600)), Heard::Unknown);
    }

    #[test]
    fn an_early_keep_alive_does_not_shorten_the_time() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.follow([session(1, 1000)].iter(), start, Duration::from_secs(5));
        assert_eq!(deadlines.heard(SessionId(1), start), Heard::Prolonged);
        assert_eq!(deadlines.due(start + Duration::from_secs(5), 9), []);
    }
}
