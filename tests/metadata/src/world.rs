//! What all hosts of a run share: who leads, what was done, what was seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use torus_blockstore::{Epoch, VolumeId};
use torus_metadata::{Member, Revision, SessionId};

use crate::chance::Chance;
use crate::disk::Disk;
use crate::history::History;
use crate::mutation::Mutation;
use crate::swarm::Swarm;
use crate::trace::Trace;

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) swarm: Swarm,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) trace: Trace,
    pub(crate) history: History,
    pub(crate) disks: Vec<Arc<Disk>>,
    members: Mutex<BTreeMap<usize, Weak<Member>>>,
    /// Members whose process should end: they have failed.
    failed: Mutex<Vec<usize>>,
    /// Members that have saved a vote since the nemesis looked.
    voted: Mutex<Vec<usize>>,
    /// What each revision changed, as the first who saw it says.
    revisions: Mutex<BTreeMap<Revision, String>>,
    grants: Mutex<BTreeMap<(VolumeId, Epoch), String>>,
    /// When each session was opened or answered last.
    heard: Mutex<BTreeMap<SessionId, Heard>>,
    formed: AtomicBool,
    calm: AtomicBool,
    judged: AtomicBool,
    /// Clients that have ended their work.
    pub(crate) idle: AtomicUsize,
    incarnations: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Heard {
    number: u64,
    at: Duration,
    ttl: Duration,
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>, is_told: bool) -> Arc<Self> {
        let swarm = Swarm::draw(seed);
        Arc::new_cyclic(|world| Self {
            seed,
            disks: (0..swarm.members)
                .map(|member| Arc::new(Disk::new(world.clone(), seed, member)))
                .collect(),
            swarm,
            mutation,
            trace: Trace::new(is_told),
            history: History::default(),
            members: Mutex::default(),
            failed: Mutex::default(),
            voted: Mutex::default(),
            revisions: Mutex::default(),
            grants: Mutex::default(),
            heard: Mutex::default(),
            formed: AtomicBool::new(false),
            calm: AtomicBool::new(false),
            judged: AtomicBool::new(false),
            idle: AtomicUsize::new(0),
            incarnations: AtomicUsize::new(0),
        })
    }

    /// A stream of numbers for a process that begins now.
    pub(crate) fn chance(&self, name: &str) -> Chance {
        let number = self.incarnations.fetch_add(1, Ordering::Relaxed);
        Chance::new(self.seed, &format!("{name} {number}"))
    }

    /// Whether the group is complete and the volumes exist.
    pub(crate) fn is_formed(&self) -> bool {
        self.formed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_formed(&self) {
        self.formed.store(true, Ordering::Relaxed);
    }

    /// Whether the time of faults is over.
    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    pub(crate) fn set_calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Whether the last reads are done.
    pub(crate) fn is_judged(&self) -> bool {
        self.judged.load(Ordering::Relaxed)
    }

    pub(crate) fn set_judged(&self) {
        self.judged.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_member(&self, number: usize, member: &Arc<Member>) {
        lock(&self.members).insert(number, Arc::downgrade(member));
    }

    pub(crate) fn member(&self, number: usize) -> Option<Arc<Member>> {
        lock(&self.members).get(&number)?.upgrade()
    }

    pub(crate) fn has_failed(&self, member: usize) {
        lock(&self.failed).push(member);
    }

    pub(crate) fn take_failed(&self) -> Vec<usize> {
        std::mem::take(&mut *lock(&self.failed))
    }

    pub(crate) fn vote_was_saved(&self, member: usize) {
        lock(&self.voted).push(member);
    }

    pub(crate) fn take_voted(&self) -> Vec<usize> {
        std::mem::take(&mut *lock(&self.voted))
    }

    /// Somebody saw what a revision changed: all must see the same.
    pub(crate) fn saw(&self, who: &str, revision: Revision, events: String) {
        let mut revisions = lock(&self.revisions);
        match revisions.get(&revision) {
            Some(known) if *known != events => {
                let text = format!("{who} saw {events} at {revision:?}, others {known}");
                drop(revisions);
                self.trace.violation(&text);
            }
            Some(_) => {}
            None => {
                revisions.insert(revision, events);
            }
        }
    }

    /// Whether a revision behind `from` and up to `to` is known.
    pub(crate) fn knows_between(&self, from: Revision, to: Revision) -> Option<Revision> {
        let revisions = lock(&self.revisions);
        let from = Revision(from.0 + 1);
        if from > to { None } else { revisions.range(from..=to).next().map(|(found, _)| *found) }
    }

    /// A lock was granted under an epoch: nobody else may get it.
    pub(crate) fn granted(&self, volume: VolumeId, epoch: Epoch, to: &str) {
        self.trace.sometimes("a lock was granted");
        let before = lock(&self.grants).insert((volume, epoch), to.to_owned());
        if let Some(before) = before {
            let text = format!("epoch {} of a volume was granted to {before} and to {to}", epoch.0);
            self.trace.violation(&text);
        }
    }

    /// The session lived when the event `number` happened.
    pub(crate) fn heard(&self, session: SessionId, number: u64, at: Duration, ttl: Duration) {
        lock(&self.heard).insert(session, Heard { number, at, ttl });
    }

    /// The service says that a session has ended that its owner has not closed.
    pub(crate) fn has_ended(&self, session: SessionId) {
        self.trace.sometimes("a session ended by itself");
        let Some(heard) = lock(&self.heard).get(&session).copied() else { return };
        // The hosts' clocks differ by less than a step.
        let early = self.trace.now() + crate::run::STEP * 2 < heard.at + heard.ttl;
        if early {
            self.trace.violation(&format!("{session} ended before its time, {:?}", heard.ttl));
        }
    }

    pub(crate) fn heard_numbers(&self) -> BTreeMap<SessionId, u64> {
        lock(&self.heard).iter().map(|(session, heard)| (*session, heard.number)).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
