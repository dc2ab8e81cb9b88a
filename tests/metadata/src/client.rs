//! The workload: clients that lock volumes, use what the lock allows, also with tokens of former
//! locks, and put new rings in place of old ones.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use torus_blockstore::{Epoch, VolumeId};
use torus_metadata::{
    Answer, Applied, Client, Command, Error, MetadataService, Outcome, Query, Refusal, Ring,
    RingKind, RingVersion, SessionId,
};

use crate::chance::Chance;
use crate::member::{address, addresses};
use crate::models::{RingOp, RingSet, VolumeAnswer, VolumeAsk, VolumeOp, VolumeState};
use crate::network::dial;
use crate::world::World;

/// Makes calls and writes the history of them.
pub(crate) struct Caller {
    world: Arc<World>,
    name: String,
    chance: Chance,
    client: Client,
}

/// A session and the task that keeps it alive.
struct Kept {
    id: SessionId,
    has_ended: Arc<AtomicBool>,
    _keeping: AbortOnDropHandle<()>,
}

/// Works until the time of faults is over.
pub(crate) async fn run(world: Arc<World>, number: usize) -> Result<(), Box<dyn StdError>> {
    while !world.is_formed() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let caller = Caller::new(&world, &format!("c{number}"));
    let mut session: Option<Kept> = None;
    let mut epochs: BTreeMap<VolumeId, Epoch> = BTreeMap::new();
    let volumes = world.history.volumes();
    while !world.is_calm() {
        tokio::time::sleep(caller.chance.millis(1..world.swarm.pause_ms)).await;
        if session.as_ref().is_none_or(|kept| kept.has_ended.load(Ordering::Relaxed)) {
            session = caller.open_session().await;
        }
        let Some(kept) = &session else { continue };
        let volume = *caller.chance.pick(&volumes);
        let epoch = epochs.get(&volume).copied();
        match (caller.chance.within(0..100), epoch) {
            (0..12, _) => caller.change_ring().await,
            (12..30, _) => {
                caller.read_volume(volume).await;
            }
            (30..33, _) => {
                caller.close(kept).await;
                session = None;
            }
            (33..60, Some(epoch)) => caller.reserve(volume, epoch).await,
            (60..70, Some(epoch)) => caller.relock(volume, kept.id, epoch).await,
            (70..80, Some(epoch)) => caller.unlock(volume, epoch).await,
            _ => {
                if let Some(epoch) = caller.lock(volume, kept.id).await {
                    epochs.insert(volume, epoch);
                }
            }
        }
    }
    if let Some(kept) = &session {
        caller.close(kept).await;
    }
    world.idle.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

impl Caller {
    pub(crate) fn new(world: &Arc<World>, name: &str) -> Self {
        let client = Client::over(dial(), addresses(world));
        let world = Arc::clone(world);
        Self { chance: world.chance(name), world, name: name.to_owned(), client }
    }

    fn note(&self, what: &str) -> u64 {
        self.world.trace.note(&format!("{}: {what}", self.name))
    }

    /// A client that has its own idea of whom to ask: half of the time of one member only.
    fn somebody(&self) -> Client {
        if self.chance.happens(50) {
            return self.client.clone();
        }
        let member = self.chance.within(0..self.world.swarm.members as u64);
        Client::over(dial(), [address(usize::try_from(member).unwrap_or(0))])
            .with_deadline(Duration::from_secs(3))
    }

    async fn open_session(&self) -> Option<Kept> {
        let ttl_ms = *self.chance.pick(&[1500, 3000, 6000]);
        let number = self.note("opens a session");
        let at = self.world.trace.now();
        let open = Command::OpenSession { owner: self.name.clone(), ttl_ms };
        let opened = self.client.execute(open).await;
        let Ok(Applied { outcome: Outcome::Session(id), .. }) = opened else { return None };
        self.note(&format!("has {id}"));
        let ttl = Duration::from_millis(ttl_ms.into());
        self.world.heard(id, number, at, ttl);
        let has_ended = Arc::new(AtomicBool::new(false));
        let keeping =
            keep(Arc::clone(&self.world), self.client.clone(), id, ttl, Arc::clone(&has_ended));
        Some(Kept { id, has_ended, _keeping: AbortOnDropHandle::new(tokio::spawn(keeping)) })
    }

    async fn lock(&self, volume: VolumeId, session: SessionId) -> Option<Epoch> {
        let answer = self.ask(volume, VolumeAsk::Lock { session }).await?;
        let VolumeAnswer::Granted { epoch } = answer else { return None };
        self.world.granted(volume, epoch, &self.name);
        Some(epoch)
    }

    async fn relock(&self, volume: VolumeId, session: SessionId, epoch: Epoch) {
        self.ask(volume, VolumeAsk::Relock { session, epoch }).await;
    }

    async fn unlock(&self, volume: VolumeId, epoch: Epoch) {
        self.ask(volume, VolumeAsk::Unlock { epoch }).await;
    }

    async fn reserve(&self, volume: VolumeId, epoch: Epoch) {
        let count = self.chance.within(1..10);
        let answer = self.ask(volume, VolumeAsk::Reserve { epoch, count }).await;
        if let Some(VolumeAnswer::Stale { .. }) = answer {
            self.world.trace.sometimes("a stale token was refused");
        }
    }

    /// Whether there was an answer.
    pub(crate) async fn read_volume(&self, volume: VolumeId) -> bool {
        self.ask(volume, VolumeAsk::Read).await.is_some()
    }

    /// Closes a session, which frees the locks of all volumes.
    async fn close(&self, kept: &Kept) {
        let begin = self.note(&format!("closes {}", kept.id));
        let op = |answer| VolumeOp { ask: VolumeAsk::Close { session: kept.id }, answer };
        let history = &self.world.history;
        let volumes = history.volumes();
        let calls: Vec<_> =
            volumes.iter().map(|volume| history.volume_begins(*volume, begin, op(None))).collect();
        // From here on its end is no surprise.
        kept.has_ended.store(true, Ordering::Relaxed);
        let closed = self.client.execute(Command::CloseSession(kept.id)).await;
        if let Ok(_) | Err(Error::Refused(Refusal::NoSuchSession)) = closed {
            let end = self.note(&format!("has closed {}", kept.id));
            for (volume, call) in volumes.iter().zip(calls) {
                history.volume_ends(*volume, call, end, op(Some(VolumeAnswer::Done)));
            }
        }
    }

    /// One call about a volume, and its place in the history.
    async fn ask(&self, volume: VolumeId, ask: VolumeAsk) -> Option<VolumeAnswer> {
        let begin = self.note(&format!("asks of {volume}: {ask:?}"));
        let op = |answer| VolumeOp { ask, answer };
        let call = self.world.history.volume_begins(volume, begin, op(None));
        let answer = self.send(volume, ask).await;
        match answer {
            Ok(answer) => {
                let end = self.note(&format!("hears of {volume}: {answer:?}"));
                self.world.history.volume_ends(volume, call, end, op(Some(answer)));
                Some(answer)
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    async fn send(&self, volume: VolumeId, ask: VolumeAsk) -> Result<VolumeAnswer, Error> {
        let command = match ask {
            VolumeAsk::Lock { session } => Command::LockVolume { volume, session },
            VolumeAsk::Relock { session, epoch } => {
                Command::RelockVolume { volume, session, epoch }
            }
            VolumeAsk::Unlock { epoch } => Command::UnlockVolume { volume, epoch, is_clean: false },
            VolumeAsk::Reserve { epoch, count } => Command::ReserveINodes { volume, epoch, count },
            VolumeAsk::Close { session } => Command::CloseSession(session),
            VolumeAsk::Read => {
                return match self.somebody().query(Query::VolumeById(volume)).await? {
                    Answer::Volume { volume: Some(found), .. } => {
                        Ok(VolumeAnswer::Found(VolumeState {
                            epoch: found.epoch,
                            holder: found.lock.map(|lock| lock.session),
                            reserved: found.inode_index.0,
                        }))
                    }
                    _ => Err(Error::Protocol { what: "the volume" }),
                };
            }
        };
        Ok(match self.client.execute(command).await {
            Ok(Applied { outcome: Outcome::Epoch(epoch), .. }) => VolumeAnswer::Granted { epoch },
            Ok(Applied { outcome: Outcome::INode(first), .. }) => {
                VolumeAnswer::First { inode: first.0 }
            }
            Ok(_) => VolumeAnswer::Done,
            Err(Error::Refused(Refusal::InUse { .. })) => VolumeAnswer::InUse,
            Err(Error::Refused(Refusal::NoSuchSession)) => VolumeAnswer::NoSuchSession,
            Err(Error::Refused(Refusal::StaleEpoch { current, .. })) => {
                VolumeAnswer::Stale { current }
            }
            Err(error) => return Err(error),
        })
    }

    /// Reads the ring and puts the next in its place.
    async fn change_ring(&self) {
        let Some(version) = self.read_ring().await else { return };
        if self.chance.happens(40) {
            return;
        }
        // Sometimes on a version that is none, or no more.
        let version = version + *self.chance.pick(&[1, 1, 1, 2]);
        let replication = u32::try_from(self.chance.within(1..9)).unwrap_or(1);
        let op = |answer| RingOp::Set { version, replication, answer };
        let begin = self.note(&format!("sets ring {version} with {replication}"));
        let call = self.world.history.ring_begins(begin, op(None));
        let ring = Ring {
            version: RingVersion(version),
            kind: RingKind::Ketama,
            replication,
            members: Vec::new(),
        };
        let answer = match self.client.execute(Command::SetRing(ring)).await {
            Ok(_) => RingSet::Done,
            Err(Error::Refused(Refusal::RingVersion { current, .. })) => {
                RingSet::Refused { current: current.0 }
            }
            Err(error) => return self.failed(&error),
        };
        let end = self.note(&format!("hears of the ring: {answer:?}"));
        self.world.history.ring_ends(call, end, op(Some(answer)));
    }

    /// The version of the ring.
    pub(crate) async fn read_ring(&self) -> Option<u64> {
        let begin = self.note("reads the ring");
        let call = self.world.history.ring_begins(begin, RingOp::Read { answer: None });
        match self.somebody().query(Query::Ring(None)).await {
            Ok(Answer::Ring { ring: Some(ring), .. }) => {
                let found = (ring.version.0, ring.replication);
                let end = self.note(&format!("finds ring {found:?}"));
                self.world.history.ring_ends(call, end, RingOp::Read { answer: Some(found) });
                Some(ring.version.0)
            }
            Ok(_) => {
                self.world.trace.violation("there is no ring");
                None
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// No answer; a refusal that no call of this workload should meet is a violation.
    fn failed(&self, error: &Error) {
        self.note("has no answer");
        self.world.trace.sometimes("a call had no answer");
        if !matches!(error, Error::Unavailable { .. }) {
            self.world
                .trace
                .violation(&format!("{} got an answer that is none: {error}", self.name));
        }
    }
}

/// Tells the service again and again that the session's owner lives.
async fn keep(
    world: Arc<World>,
    client: Client,
    session: SessionId,
    ttl: Duration,
    has_ended: Arc<AtomicBool>,
) {
    loop {
        tokio::time::sleep(ttl / 3).await;
        let at = world.trace.now();
        let number = world.trace.note(&format!("{session} is to live"));
        match client.keep_alive(session).await {
            Ok(()) => world.heard(session, number, at, ttl),
            Err(Error::Refused(Refusal::NoSuchSession)) => {
                if !has_ended.swap(true, Ordering::Relaxed) {
                    world.trace.note(&format!("{session} has ended"));
                    world.has_ended(session);
                }
                return;
            }
            Err(_) => {}
        }
    }
}
