//! Every operation of a history is once the last before a crash, with several subsets of the
//! un-synced sectors, and what is found afterwards must be what a model allows.
//!
//! The model knows which contents a block may have: what it had at the last sync, and any that it
//! had since. Then a second history runs on what was found and crashes too.
//!
//! Earlier blocks fill the first slots, so that the history works where map entries cross a sector.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Strategy, prop, prop_oneof, proptest};

use super::*;
use crate::MfileOptions;

const SMALL: u32 = 1024;
const EARLIER: u64 = 18;
const SLOTS: u64 = 27;

#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u64, usize),
    Seal(u64),
    Put(u64, usize),
    Delete(u64),
    Sync,
}

/// A block as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    Absent,
    /// So many bytes of it are durable.
    Open(Vec<u8>, usize),
    Sealed(Vec<u8>),
}

#[derive(Default)]
struct Model {
    now: BTreeMap<u64, Content>,
    allowed: BTreeMap<u64, BTreeSet<Content>>,
    writes: u64,
}

impl Model {
    /// What a store has that was just opened.
    fn of(store: &Mfile) -> Self {
        let mut model = Self::default();
        for (held, state) in store.list(None, usize::MAX) {
            let content = match state {
                BlockState::Sealed(seal) => {
                    Content::Sealed(read(store, held, seal.length as usize))
                }
                _ => Content::Open(Vec::new(), 0),
            };
            model.now.insert(held.index.0, content);
        }
        model.synced();
        model
    }

    fn now(&self, index: u64) -> Content {
        self.now.get(&index).cloned().unwrap_or(Content::Absent)
    }

    fn set(&mut self, index: u64, content: Content) {
        let before = self.now(index);
        self.allowed.entry(index).or_insert_with(|| [before].into()).insert(content.clone());
        self.now.insert(index, content);
    }

    fn synced(&mut self) {
        for content in self.now.values_mut() {
            if let Content::Open(bytes, durable) = content {
                *durable = bytes.len();
            }
        }
        self.allowed = self.now.iter().map(|(&index, now)| (index, [now.clone()].into())).collect();
    }

    /// Does a step on store and model. `false`: the machine is off.
    fn run(&mut self, store: &Mfile, step: Step) -> bool {
        self.writes += 1;
        match step {
            Step::Append(index, length) => {
                let (mut bytes, durable) = match self.now(index) {
                    Content::Absent => (Vec::new(), 0),
                    Content::Open(bytes, durable) => (bytes, durable),
                    Content::Sealed(_) => return true,
                };
                if store.state(block(index)) == Some(BlockState::Unsettled) {
                    return self.run(store, Step::Put(index, length));
                }
                let more = content(self.writes, length.min(SMALL as usize - bytes.len()));
                let offset = u32::try_from(bytes.len()).unwrap();
                bytes.extend(&more);
                self.set(index, Content::Open(bytes, durable));
                store.append(block(index), offset, &more).is_ok()
            }
            Step::Seal(index) => {
                let Content::Open(bytes, _) = self.now(index) else {
                    return true;
                };
                let seal = Seal::of(&bytes);
                self.set(index, Content::Sealed(bytes));
                store.seal(block(index), seal).is_ok()
            }
            Step::Put(index, length) => {
                let bytes = content(self.writes, length);
                self.set(index, Content::Sealed(bytes.clone()));
                store.put(block(index), &bytes).is_ok()
            }
            Step::Delete(index) => {
                self.set(index, Content::Absent);
                store.delete(block(index)).is_ok()
            }
            Step::Sync => {
                let synced = store.sync().is_ok();
                if synced {
                    self.synced();
                }
                synced
            }
        }
    }

    fn check(&self, store: &Mfile, case: &str) {
        for (&index, allowed) in &self.allowed {
            assert!(
                allowed.iter().any(|content| agrees(store, index, content)),
                "{case}: block {index} is {:?}, allowed is {:?}",
                store.state(block(index)),
                allowed.iter().map(describe).collect::<Vec<_>>()
            );
        }
        for (held, _) in store.list(None, usize::MAX) {
            let known = self.allowed.contains_key(&held.index.0) && held == block(held.index.0);
            assert!(known, "{case}: {held} was never written");
        }
    }
}

fn agrees(store: &Mfile, index: u64, content: &Content) -> bool {
    match (store.state(block(index)), content) {
        (None, Content::Absent) => true,
        (Some(BlockState::Unsettled), Content::Open(bytes, durable)) => {
            read(store, block(index), *durable) == bytes[..*durable]
        }
        (Some(BlockState::Sealed(seal)), Content::Sealed(bytes)) => {
            seal == Seal::of(bytes) && read(store, block(index), bytes.len()) == *bytes
        }
        _ => false,
    }
}

fn describe(content: &Content) -> String {
    match content {
        Content::Absent => "absent".to_owned(),
        Content::Open(bytes, durable) => format!("open, {durable} of {} bytes", bytes.len()),
        Content::Sealed(bytes) => format!("sealed, {} bytes", bytes.len()),
    }
}

fn open_small(disk: &SimDisk) -> Mfile {
    let identity = PeerIdentity::open(disk.shared(), Path::new(DIR), PEER).unwrap();
    let options = MfileOptions { block_size: SMALL, capacity_bytes: SLOTS * u64::from(SMALL) };
    Mfile::open(Arc::new(identity), options).unwrap()
}

fn disk_with_earlier_blocks() -> SimDisk {
    let disk = SimDisk::new(1, 1 << 20);
    let store = open_small(&disk);
    for index in 0..EARLIER {
        store.put(block(100 + index), &content(index, 300)).unwrap();
    }
    store.sync().unwrap();
    disk
}

/// Runs `steps` until the machine is off after so many operations. Whether it stayed on.
fn run(disk: &SimDisk, steps: &[Step], operations: u64) -> (Model, bool) {
    let store = open_small(disk);
    let mut model = Model::of(&store);
    disk.crash_after(operations);
    let on = steps.iter().all(|&step| model.run(&store, step));
    (model, on)
}

/// Opens after a crash, twice, checks, and returns the disk to go on with.
fn check_after(disk: &SimDisk, model: &Model, seed: u64, case: &str) -> SimDisk {
    let disk = disk.after_crash(seed);
    let store = open_small(&disk);
    model.check(&store, case);
    let again = disk.after_crash(0);
    let found = open_small(&again);
    let list = store.list(None, usize::MAX);
    assert_eq!(found.list(None, usize::MAX), list, "{case}: what was found once stays");
    model.check(&found, case);
    disk.after_crash(1)
}

/// Crashes after every operation of `first`, and then somewhere in `second`.
fn explore(base: &SimDisk, first: &[Step], second: &[Step], seeds: u64) {
    for operations in 0.. {
        let mut stayed_on = false;
        for seed in 0..seeds {
            let disk = base.after_crash(1);
            let (model, on) = run(&disk, first, operations);
            stayed_on = on;
            let case = format!("{operations} operations, seed {seed}");
            let disk = check_after(&disk, &model, seed, &case);
            let (model, _) = run(&disk, second, (operations * 7 + seed * 3) % 40);
            check_after(&disk, &model, operations + seed, &format!("{case}, second crash"));
        }
        if stayed_on {
            return;
        }
    }
}

#[test]
fn a_blocks_life() {
    use Step::{Append, Delete, Put, Seal, Sync};
    let first = [
        Append(1, 600),
        Append(2, 100),
        Sync,
        Append(1, 424),
        Sync,
        Seal(1),
        Append(3, 700),
        Sync,
        Put(2, 900),
        Sync,
        Delete(1),
        Append(4, 10),
        Sync,
        Append(1, 5),
        Sync,
        Put(3, 512),
        Put(3, 100),
        Delete(4),
        Sync,
    ];
    let second = [
        Put(1, 300),
        Append(5, 1000),
        Sync,
        Delete(2),
        Delete(3),
        Sync,
        Append(2, 700),
        Seal(2),
        Append(3, 1),
        Sync,
        Put(4, 1024),
        Sync,
    ];
    explore(&disk_with_earlier_blocks(), &first, &second, 12);
}

#[test]
fn delete_and_write_again_without_a_sync_between() {
    use Step::{Append, Delete, Put, Seal, Sync};
    let first = [
        Put(1, 600),
        Sync,
        Delete(1),
        Append(1, 600),
        Seal(1),
        Delete(1),
        Put(1, 700),
        Sync,
        Delete(1),
        Put(1, 800),
        Put(1, 900),
        Sync,
        Delete(1),
        Sync,
        Append(1, 100),
        Sync,
        Seal(1),
        Delete(1),
        Sync,
    ];
    let second = [Append(1, 50), Sync, Seal(1), Sync, Put(1, 60), Delete(1), Sync, Put(1, 9), Sync];
    explore(&disk_with_earlier_blocks(), &first, &second, 12);
}

#[test]
fn slots_are_used_again() {
    use Step::{Append, Delete, Put, Sync};
    // Nine slots are free; blocks go and come without a sync of ours.
    let mut first = Vec::new();
    for round in 0..4 {
        for index in 0..7 {
            first.push(Append(index, 512 + 64 * round));
        }
        first.push(Put(3, 1024));
        for index in 0..7 {
            first.push(Delete(index));
        }
    }
    let second = [Append(1, 1024), Append(2, 1024), Sync, Append(3, 1024), Sync];
    explore(&disk_with_earlier_blocks(), &first, &second, 6);
}

fn step() -> impl Strategy<Value = Step> {
    let index = 0..5_u64;
    prop_oneof![
        3 => (index.clone(), 0..600_usize).prop_map(|(index, length)| Step::Append(index, length)),
        2 => index.clone().prop_map(Step::Seal),
        2 => (index.clone(), 0..1024_usize).prop_map(|(index, length)| Step::Put(index, length)),
        2 => index.prop_map(Step::Delete),
        3 => prop::strategy::Just(Step::Sync),
    ]
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(24))]

    #[test]
    fn any_history(
        first in prop::collection::vec(step(), 1..14),
        second in prop::collection::vec(step(), 1..10),
    ) {
        explore(&disk_with_earlier_blocks(), &first, &second, 5);
    }

    /// Every operation fails once: what was acknowledged stays, and nothing is after a failed sync.
    #[test]
    fn any_fault(steps in prop::collection::vec(step(), 1..14)) {
        let base = disk_with_earlier_blocks();
        for nth in 1.. {
            let disk = base.after_crash(1);
            let store = open_small(&disk);
            let mut model = Model::of(&store);
            let begin = disk.operations();
            disk.fail(nth, Fault::Io);
            // The model stops at the first error: what follows a failed step is another history.
            let unharmed = steps.iter().all(|&step| model.run(&store, step));
            if unharmed && disk.operations() - begin < nth {
                break;
            }
            drop(store);
            for seed in 0..3 {
                check_after(&disk, &model, seed, &format!("fault at {nth}, seed {seed}"));
            }
        }
    }
}
