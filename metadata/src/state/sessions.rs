//! Sessions: facts only. Who has been silent for too long is the leader's to know.

use super::{Change, State, asks};
use crate::{Event, Outcome, Refusal, Session, SessionId, Volume};

const OWNER_MAX: usize = 255;
const TTL_MIN_MS: u32 = 100;
const TTL_MAX_MS: u32 = 3_600_000;

impl State {
    pub(super) fn open_session(&mut self, owner: String, ttl_ms: u32) -> Result<Change, Refusal> {
        if owner.is_empty() || owner.len() > OWNER_MAX {
            return Err(Refusal::SESSION_OWNER);
        }
        if !(TTL_MIN_MS..=TTL_MAX_MS).contains(&ttl_ms) {
            return Err(Refusal::SESSION_TTL);
        }
        let id = SessionId(self.next_revision().0);
        let session = Session { id, owner, ttl_ms };
        self.sessions.insert(id, session.clone());
        Change::with(Outcome::Session(id), vec![Event::SessionOpened(session)])
    }

    pub(super) fn close_session(&mut self, session: SessionId) -> Result<Change, Refusal> {
        if !self.sessions.contains_key(&session) {
            return Err(Refusal::NoSuchSession);
        }
        self.expire_sessions(&[session])
    }

    pub(super) fn expire_sessions(&mut self, ids: &[SessionId]) -> Result<Change, Refusal> {
        let mut events = Vec::new();
        for id in ids {
            if self.sessions.remove(id).is_some() {
                for volume in self.volumes.values_mut() {
                    if forget_session(volume, *id) {
                        events.push(Event::VolumeChanged(volume.clone()));
                    }
                }
                events.push(Event::SessionEnded(*id));
            }
        }
        if events.is_empty() { Change::nothing() } else { Change::done(events) }
    }
}

/// Takes from a volume what the session had of it; whether that was anything.
fn forget_session(volume: &mut Volume, session: SessionId) -> bool {
    let wrote = volume.lock.take_if(|lock| lock.session == session).is_some();
    if wrote {
        asks::answer_all_as_closed(volume);
    }
    let mut read = false;
    for snapshot in &mut volume.snapshots {
        read |= snapshot.readers.remove(&session);
    }
    wrote || read
}
