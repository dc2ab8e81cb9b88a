//! Watchers of a run, and what etcd guarantees of watches, held against what they saw.
//!
//! One watcher stays with each member, and one more goes from member to member. Each watches all
//! kinds of events from where it got to; when changes are no longer kept it begins anew at the
//! present revision, as a list would tell it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use torus_blockstore::VolumeId;
use torus_metadata::{Client, Error, Event, MetadataService, Revision, WatchItem};

const PAUSE: Duration = Duration::from_millis(50);

/// What the events of an answered command's revision must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Size { volume: VolumeId, size: u64 },
    Reserved { volume: VolumeId, last: u64 },
    Ring { version: u64, weight: u64 },
    Locked { volume: VolumeId, epoch: u64 },
}

impl Expected {
    fn is_shown_by(&self, event: &Event) -> bool {
        match (self, event) {
            (Self::Size { volume, size }, Event::VolumeChanged(now)) => {
                now.id == *volume && now.size == *size
            }
            (Self::Reserved { volume, last }, Event::VolumeChanged(now)) => {
                now.id == *volume && now.inode_index.0 == *last
            }
            (Self::Locked { volume, epoch }, Event::VolumeChanged(now)) => {
                now.id == *volume && now.lock.as_ref().is_some_and(|lock| lock.epoch.0 == *epoch)
            }
            (Self::Ring { version, weight }, Event::RingChanged(ring)) => {
                ring.version.0 == *version
                    && ring.members.first().is_some_and(|member| member.weight == *weight)
            }
            _ => false,
        }
    }
}

/// One step of a watcher, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A watch begins behind this revision.
    From(u64),
    Events(u64),
    Progress(u64),
    /// Changes are missing that are no longer kept; the next watch need not go on where this ended.
    Compacted,
}

/// What all watchers of a run saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The events of each revision, as the first watcher saw them.
    pub(super) events: BTreeMap<u64, Vec<Event>>,
    pub(super) steps: Vec<Vec<Step>>,
    pub(super) contradictions: Vec<String>,
}

impl Seen {
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, watcher: usize, step: Step) {
        let mut kept = self.kept();
        if kept.steps.len() <= watcher {
            kept.steps.resize(watcher + 1, Vec::new());
        }
        kept.steps[watcher].push(step);
    }

    /// How far each watcher got.
    pub(super) fn reached(&self) -> Vec<u64> {
        let last = |steps: &Vec<Step>| {
            let revisions = steps.iter().rev().filter_map(|step| match step {
                Step::From(revision) | Step::Events(revision) | Step::Progress(revision) => {
                    Some(*revision)
                }
                Step::Compacted => None,
            });
            revisions.max().unwrap_or(0)
        };
        self.kept().steps.iter().map(last).collect()
    }
}

/// Watches from a revision on until it is stopped; `client` knows one member, or all.
pub(super) async fn watch(
    seen: Arc<Seen>,
    watcher: usize,
    from: u64,
    client: Client,
    everywhere: Client,
    stop: CancellationToken,
) {
    let mut from = Revision(from);
    loop {
        seen.step(watcher, Step::From(from.0));
        let mut items = client.watch(from, Vec::new());
        let compacted = loop {
            let Some(item) = stop.run_until_cancelled(items.next()).await else { return };
            match item {
                Some(Ok(WatchItem::Events { revision, events })) => {
                    from = revision;
                    see(&seen, watcher, revision.0, events);
                }
                Some(Ok(WatchItem::Progress(revision))) => {
                    from = from.max(revision);
                    seen.step(watcher, Step::Progress(revision.0));
                }
                // No list was asked for.
                Some(Ok(WatchItem::Listed(_))) => break false,
                Some(Err(Error::Compacted { .. })) => break true,
                Some(Err(_)) | None => break false,
            }
        };
        drop(items);
        if compacted {
            let list = everywhere.query(torus_metadata::Query::Ring(None));
            let listed = stop.run_until_cancelled(list).await;
            if let Some(Ok(torus_metadata::Answer::Ring { revision, .. })) = listed {
                seen.step(watcher, Step::Compacted);
                from = revision;
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

fn see(seen: &Seen, watcher: usize, revision: u64, events: Vec<Event>) {
    seen.step(watcher, Step::Events(revision));
    let mut kept = seen.kept();
    match kept.events.get(&revision) {
        Some(before) if *before == events => {}
        Some(before) => {
            let what = format!("revision {revision} is {events:?} to one, {before:?} to another");
            kept.contradictions.push(what);
        }
        None => {
            kept.events.insert(revision, events);
        }
    }
}

impl Kept {
    /// The sessions that ended, however that was.
    pub(super) fn ended(&self) -> impl Iterator<Item = u64> {
        self.events.values().flatten().filter_map(|event| match event {
            Event::SessionEnded(session) => Some(session.0),
            _ => None,
        })
    }

    /// Everything that contradicts the guarantees. `reached`: every watcher got so far.
    pub(super) fn violations(
        &self,
        expected: &BTreeMap<u64, Expected>,
        reached: u64,
    ) -> Vec<String> {
        let mut found = self.contradictions.clone();
        for (watcher, steps) in self.steps.iter().enumerate() {
            let fault = self.follow(steps, reached).err();
            found.extend(fault.map(|fault| format!("watcher {watcher}: {fault}")));
        }
        for (revision, expected) in expected.range(..=reached) {
            let events = self.events.get(revision);
            if !events.is_some_and(|events| events.iter().any(|event| expected.is_shown_by(event)))
            {
                found.push(format!("revision {revision} is {events:?} and not {expected:?}"));
            }
        }
        found
    }

    /// Ordered, unique, without gaps (those that others know), resumed where it was broken off; no
    /// mark of progress is ahead of the events.
    fn follow(&self, steps: &[Step], reached: u64) -> Result<(), String> {
        // All events up to here were delivered.
        let mut whole = 0;
        let mut resumed = true;
        for step in steps {
            match step {
                Step::From(from) if resumed || *from == whole => {
                    whole = *from;
                    resumed = false;
                }
                Step::From(from) => return Err(format!("went on at {from}, not at {whole}")),
                Step::Compacted => resumed = true,
                Step::Events(revision) if *revision <= whole => {
                    return Err(format!("revision {revision} came behind {whole}"));
                }
                Step::Events(revision) => {
                    self.no_gap(whole, *revision)?;
                    whole = *revision;
                }
                Step::Progress(revision) if *revision < whole => {
                    return Err(format!("progress to {revision} behind {whole}"));
                }
                Step::Progress(revision) => {
                    self.no_gap(whole, revision + 1)?;
                    whole = *revision;
                }
            }
        }
        if whole < reached { Err(format!("got to {whole}, not to {reached}")) } else { Ok(()) }
    }

    /// Nobody knows of a change behind `from` and before `to`.
    fn no_gap(&self, from: u64, to: u64) -> Result<(), String> {
        match self.events.range(from + 1..to).next() {
            Some((missed, _)) => Err(format!("revision {missed} was left out before {to}")),
            None => Ok(()),
        }
    }
}
