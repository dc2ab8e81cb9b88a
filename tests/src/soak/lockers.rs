//! Clients that open sessions, take locks, write under their epochs, and die or sleep at times.
//!
//! A session may be ended by the service when its time has passed since the last keep-alive that was
//! answered was sent, and not before: so says the record, and a locker that learns of an earlier
//! end says so.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use torus_blockstore::{Epoch, VolumeId};
use torus_metadata::{
    Answer, Applied, Client, Command, Error, MetadataService, Outcome, Query, Refusal, SessionId,
};

use super::clients::{Shared, ask, execute};
use super::model::{Input, LockState, Output};
use super::record::Object;
use super::search::Operation;
use super::watchers::Expected;
use crate::history::Random;

const TTL_MS: std::ops::Range<u64> = 1_500..4_000;
const HOLD_MS: std::ops::Range<u64> = 5..600;
const DEADLINE: Duration = Duration::from_secs(4);
/// The part of its time after which a session is prolonged.
const PROLONGED: u32 = 4;

pub(super) struct Locker {
    shared: Arc<Shared>,
    number: u64,
    random: Random,
    client: Client,
    sessions: u64,
    written: u64,
}

/// A session that was opened, and the task that keeps it alive.
struct Session {
    /// Unique among all lockers; the owner's name on the wire.
    name: u64,
    id: SessionId,
    /// The service may end it from then on, in ns.
    safe_until: Arc<AtomicU64>,
    alive: CancellationToken,
    /// The locks that it was used for.
    used: BTreeSet<Object>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.alive.cancel();
    }
}

impl Locker {
    pub(super) fn new(shared: Arc<Shared>, number: u64, seed: u64) -> Self {
        let index = usize::try_from(number).unwrap_or(0) % shared.addresses.len();
        let client = Client::new([shared.addresses[index].clone()]).with_deadline(DEADLINE);
        Self { shared, number, random: Random(seed), client, sessions: 0, written: 0 }
    }

    pub(super) async fn run(mut self) {
        while !self.shared.stop.is_cancelled() {
            let Some(mut session) = self.open().await else {
                self.pause().await;
                continue;
            };
            // A session serves for some turns; then its owner closes it, or dies.
            for _ in 0..self.random.within(1..12) {
                if self.shared.stop.is_cancelled() || !self.turn(&mut session).await {
                    break;
                }
            }
            if self.random.within(0..3) == 0 {
                self.close(&session).await;
            }
            session.alive.cancel();
            let from = session.safe_until.load(Ordering::SeqCst);
            for object in &session.used {
                self.shared.record.may_end(*object, session.name, from);
            }
        }
    }

    async fn open(&mut self) -> Option<Session> {
        self.sessions += 1;
        let name = (self.number + 1) << 32 | self.sessions;
        let ttl_ms = self.random.within(TTL_MS);
        let sent = self.shared.record.now();
        let ttl_ms = u32::try_from(ttl_ms).unwrap_or(u32::MAX);
        let command = Command::OpenSession { owner: owner(name), ttl_ms };
        let id = match self.client.execute(command).await {
            Ok(Applied { outcome: Outcome::Session(id), .. }) => id,
            Err(Error::Unavailable { .. } | Error::NotInitialised { .. }) => return None,
            other => {
                self.shared.record.odd(format!("no session, but {other:?}"));
                return None;
            }
        };
        let ttl = Duration::from_millis(u64::from(ttl_ms));
        let safe_until = Arc::new(AtomicU64::new(sent + nanos(ttl)));
        let alive = self.shared.stop.child_token();
        let keeper = keep(
            Arc::clone(&self.shared),
            self.client.with_deadline(ttl),
            id,
            ttl,
            Arc::clone(&safe_until),
            alive.clone(),
        );
        tokio::spawn(keeper);
        Some(Session { name, id, safe_until, alive, used: BTreeSet::new() })
    }

    /// Tries to take the lock, and uses it; `false` when the session has ended.
    async fn turn(&mut self, session: &mut Session) -> bool {
        let (number, stretch) = self.shared.now();
        let (object, volume) = (Object::Lock(number), stretch.lock);
        session.used.insert(object);
        match self.lock(object, volume, session).await {
            Some(Output::Granted { epoch }) => self.hold(object, volume, epoch).await,
            Some(Output::NoSession) => return false,
            _ => {
                self.read(object, volume).await;
                self.pause().await;
            }
        }
        true
    }

    async fn lock(
        &mut self,
        object: Object,
        volume: VolumeId,
        session: &Session,
    ) -> Option<Output> {
        let input = Input::Lock { session: session.name };
        let command = Command::LockVolume { volume, session: session.id };
        let output = self.execute(object, input, command, |outcome| match outcome {
            Ok(Outcome::Epoch(Epoch(epoch))) => {
                Some((Output::Granted { epoch }, Some(Expected::Locked { volume, epoch })))
            }
            Err(Refusal::InUse { owner, .. }) => {
                Some((Output::HeldBy { session: session_of(&owner)? }, None))
            }
            Err(Refusal::NoSuchSession) => Some((Output::NoSession, None)),
            _ => None,
        });
        let output = output.await;
        if output == Some(Output::NoSession) {
            ended(&self.shared, session.id, &session.safe_until);
        }
        output
    }

    /// Writes under the epoch, and gives the lock back or not; one that is late finds another's epoch.
    async fn hold(&mut self, object: Object, volume: VolumeId, epoch: u64) {
        for _ in 0..self.random.within(0..4) {
            self.write(object, volume, epoch).await;
            let hold = Duration::from_millis(self.random.within(HOLD_MS));
            self.shared.pause(hold).await;
        }
        if self.random.within(0..4) > 0 {
            self.unlock(object, volume, epoch).await;
        }
        if self.random.within(0..3) == 0 {
            self.pause().await;
            self.write(object, volume, epoch).await;
        }
    }

    async fn write(&mut self, object: Object, volume: VolumeId, epoch: u64) {
        self.written += 1;
        let size = (self.number + 1) << 32 | self.written;
        let input = Input::WriteUnder { epoch, value: size };
        let epoch = Some(Epoch(epoch));
        let command = Command::ResizeVolume { volume, epoch, size, ask: None };
        let expected = Expected::Size { volume, size };
        self.execute(object, input, command, |outcome| under_epoch(outcome, Some(expected))).await;
    }

    async fn unlock(&mut self, object: Object, volume: VolumeId, epoch: u64) {
        let input = Input::Unlock { epoch };
        let command = Command::UnlockVolume { volume, epoch: Epoch(epoch), is_clean: false };
        self.execute(object, input, command, |outcome| under_epoch(outcome, None)).await;
    }

    /// Ends the session, and with it whatever locks it has.
    async fn close(&mut self, session: &Session) {
        // A keep-alive that is answered after the closing would call this end one by the service.
        session.alive.cancel();
        let record = &self.shared.record;
        record.kept().closed.insert(session.id.0);
        let call = record.now();
        let answer = match self.client.execute(Command::CloseSession(session.id)).await {
            Ok(_) => Some((record.now(), Output::Done)),
            Err(Error::Refused(Refusal::NoSuchSession)) => {
                ended(&self.shared, session.id, &session.safe_until);
                Some((record.now(), Output::Done))
            }
            Err(Error::Unavailable { .. } | Error::NotInitialised { .. }) => None,
            Err(error) => return record.odd(format!("a session was not closed: {error}")),
        };
        for object in &session.used {
            let (client, input) = (self.number, Input::End { session: session.name });
            record.add(*object, Operation { client, call, input, answer: answer.clone() });
        }
    }

    async fn read(&mut self, object: Object, volume: VolumeId) {
        let query = Query::VolumeById(volume);
        ask(&self.shared.record, &self.client, self.number, object, query, |answer| match answer {
            Answer::Volume { volume: Some(volume), .. } => {
                let holder = match &volume.lock {
                    Some(lock) => Some(session_of(&lock.owner)?),
                    None => None,
                };
                let (epoch, value) = (volume.epoch.0, volume.size);
                Some(Output::Lock(LockState { epoch, holder, value }))
            }
            _ => None,
        })
        .await;
    }

    async fn execute(
        &self,
        object: Object,
        input: Input,
        command: Command,
        read: impl FnOnce(Result<Outcome, Refusal>) -> Option<(Output, Option<Expected>)>,
    ) -> Option<Output> {
        let (record, client) = (&self.shared.record, &self.client);
        execute(record, client, self.number, object, input, command, read).await
    }

    async fn pause(&mut self) {
        let time = Duration::from_millis(self.random.within(HOLD_MS));
        self.shared.pause(time).await;
    }
}

fn under_epoch(
    outcome: Result<Outcome, Refusal>,
    expected: Option<Expected>,
) -> Option<(Output, Option<Expected>)> {
    match outcome {
        Ok(Outcome::Done) => Some((Output::Done, expected)),
        Err(Refusal::StaleEpoch { current, .. }) => {
            Some((Output::Stale { current: current.0 }, None))
        }
        _ => None,
    }
}

/// Keeps a session alive until its owner dies.
async fn keep(
    shared: Arc<Shared>,
    client: Client,
    id: SessionId,
    ttl: Duration,
    safe_until: Arc<AtomicU64>,
    alive: CancellationToken,
) {
    loop {
        let pause = tokio::time::sleep(ttl / PROLONGED);
        if alive.run_until_cancelled(pause).await.is_none() {
            return;
        }
        let sent = shared.record.now();
        match alive.run_until_cancelled(client.keep_alive(id)).await {
            Some(Ok(())) => {
                safe_until.fetch_max(sent + nanos(ttl), Ordering::SeqCst);
            }
            Some(Err(Error::Refused(Refusal::NoSuchSession))) => {
                return ended(&shared, id, &safe_until);
            }
            Some(Err(Error::Unavailable { .. } | Error::NotInitialised { .. })) => {}
            Some(Err(error)) => return shared.record.odd(format!("a keep-alive: {error}")),
            None => return,
        }
    }
}

/// The service has ended a session by itself, which it may not do too early.
fn ended(shared: &Shared, id: SessionId, safe_until: &AtomicU64) {
    let (now, safe_until) = (shared.record.now(), safe_until.load(Ordering::SeqCst));
    if now < safe_until {
        let early = Duration::from_nanos(safe_until - now);
        shared.record.odd(format!("session {id} was ended at least {early:?} too early"));
    }
}

fn owner(session: u64) -> String {
    format!("session-{session}")
}

fn session_of(owner: &str) -> Option<u64> {
    owner.strip_prefix("session-")?.parse().ok()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
