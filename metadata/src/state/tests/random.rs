//! Random commands: what holds after every one of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use torus_blockstore::{BlockIndex, Epoch, INodeIndex, VolumeId};

use crate::fixtures;
use crate::machine::Machine;
use crate::wire::{Image, read_snapshot, write_snapshot};
use crate::{
    AskId, Command, Event, Head, LogPosition, Revision, RingVersion, Session, SessionId,
    SnapshotId, State, Task, Volume, Window,
};

/// The numbers from which one command is made.
type Draw = (u8, u8, u8, u8);

/// Makes a command that is about what the state has: mostly one that makes sense.
#[expect(clippy::too_many_lines, reason = "a table of the commands")]
fn command(state: &State, (kind, a, b, c): Draw) -> Command {
    let nth = |count: usize, draw: u8| usize::from(draw) % count.max(1);
    let drawn = state.volumes.values().nth(nth(state.volumes.len(), a));
    let volume = drawn.map_or(VolumeId::new(1).unwrap(), |volume| volume.id);
    // Now and then of an epoch that is not the volume's.
    let epoch = Epoch(drawn.map_or(1, |v| v.epoch.0) + u64::from(c == 0));
    let name = |draw: u8| format!("n{}", draw % 5);
    let session = state.sessions.keys().nth(nth(state.sessions.len(), b)).copied();
    let session = session.unwrap_or(SessionId(1));
    let snapshots = drawn.map(|v| &*v.snapshots).unwrap_or_default();
    let snapshot = snapshots.get(nth(snapshots.len(), b)).map_or(SnapshotId(1), |s| s.id);
    let asks = drawn.map(|v| &*v.asks).unwrap_or_default();
    let asked = asks.get(nth(asks.len(), c)).map(|ask| ask.id);
    let inode = INodeIndex(drawn.map_or(0, |v| v.inode_index.0.saturating_sub(u64::from(b % 4))));
    let log = drawn.and_then(|v| v.head.as_ref()).map(|head| head.position);
    let log = LogPosition {
        inode: inode.max(log.map_or(INodeIndex(1), |log| log.inode)),
        block: BlockIndex(log.map_or(0, |log| log.block.0) + u64::from(c % 3)),
        offset: 0,
    };
    let size = 4096 * (1 + u64::from(b % 4));
    match kind % 26 {
        0 => Command::CreateVolume { name: name(b), size, spec: None },
        1 if b.is_multiple_of(2) => {
            Command::DeleteVolumeNamed { name: name(b), force: c.is_multiple_of(2) }
        }
        1 => Command::DeleteVolume { volume, force: c.is_multiple_of(2) },
        2 => Command::RenameVolume { name: name(b), to: name(c) },
        3 | 4 => Command::CloneVolume { volume, snapshot, name: name(c) },
        5 => Command::ResizeVolume {
            volume,
            epoch: c.is_multiple_of(2).then_some(epoch),
            size,
            ask: asked,
        },
        6 | 7 => Command::DeleteSnapshot { volume, snapshot, force: c.is_multiple_of(2) },
        8 => Command::PinSnapshot { volume, snapshot, session },
        9 | 10 => {
            let second = state.volumes.values().nth(nth(state.volumes.len(), b));
            let group = [Some(volume), second.map(|v| v.id).filter(|_| c % 2 == 1)];
            let task = match c % 4 {
                0 => Task::Flatten,
                2 => Task::Resize { size, discard: b.is_multiple_of(2) },
                _ => Task::Snapshot { name: name(b), created_ms: 7 },
            };
            Command::AskWriters { volumes: group.into_iter().flatten().collect(), task }
        }
        11 => Command::WithdrawAsk { ask: asked.unwrap_or(AskId(1)) },
        12 => Command::OpenSession { owner: name(b / 3), ttl_ms: 1000 },
        13 if c.is_multiple_of(3) => Command::CloseSession(session),
        13..=15 => Command::LockVolume { volume, session },
        16 if c.is_multiple_of(3) => Command::UnlockVolume { volume, epoch, is_clean: c > 9 },
        16 | 17 => Command::ReserveINodes { volume, epoch, count: 1 + u64::from(b % 3) },
        18..=20 => {
            let own = Head { volume, inode, blocks: 1, epoch, position: log };
            let same = drawn.and_then(|v| v.head.clone()).filter(|_| b.is_multiple_of(4));
            let head = same.map_or(own, |same| Head { epoch, position: log, ..same });
            Command::CommitHead { volume, head }
        }
        21 => {
            let count = 1 + u64::from(b);
            let ring = RingVersion(1);
            let (inode, first, excluded) = (log.inode, log.block, [].into());
            let window = Window { epoch, inode, ring, excluded, first, count, after: None };
            Command::CommitWindow { volume, window }
        }
        22 => {
            let ask = asked.filter(|_| c.is_multiple_of(2));
            let (name, created_ms) = (name(b), 7);
            Command::CommitSnapshot { volume, epoch, name, size, created_ms, ask }
        }
        23 => Command::RestoreSnapshot { volume, epoch, snapshot },
        24 => {
            let ask = asked.filter(|_| c.is_multiple_of(2));
            Command::CommitFlattened { volume, epoch, ask }
        }
        _ => match drawn.and_then(|v| v.retired.first().cloned()) {
            Some(head) if c.is_multiple_of(2) => Command::CommitReclaimed { volume, epoch, head },
            _ => {
                let ask = asked.unwrap_or(AskId(1));
                Command::RefuseAsk { volume, epoch, ask, error: name(b) }
            }
        },
    }
}

fn every_name_is_one_volumes(state: &State) {
    let names = state.volumes.values().map(|volume| (volume.name.clone(), volume.id)).collect();
    assert_eq!(state.names, names);
    for volume in state.volumes.values() {
        let names: BTreeSet<_> = volume.snapshots.iter().map(|snapshot| &snapshot.name).collect();
        assert_eq!(names.len(), volume.snapshots.len(), "{volume:?}");
        let ids: Vec<_> = volume.snapshots.iter().map(|snapshot| snapshot.id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{volume:?}");
        assert!(ids.last().is_none_or(|last| *last <= volume.snapshots_minted), "{volume:?}");
    }
}

fn every_parent_is_there_as_long_as_it_is_needed(state: &State) {
    for volume in state.volumes.values() {
        let Some(parent) = volume.parent else {
            assert!(volume.snapshots.iter().all(|snapshot| !snapshot.needs_parent), "{volume:?}");
            assert!(checkpoints(volume).all(|head| head.volume == volume.id), "{volume:?}");
            continue;
        };
        let needed = volume.snapshots.iter().any(|snapshot| snapshot.needs_parent);
        assert!(parent.needed_by_head || needed, "{volume:?}");
        let pinned = state.volumes[&parent.volume].snapshot(parent.snapshot).unwrap();
        // What is not its own is what it began with.
        for head in checkpoints(volume).filter(|head| head.volume != volume.id) {
            assert!(head.has_inode_of(&pinned.head), "{volume:?}");
        }
    }
}

fn nothing_that_is_needed_is_retired(state: &State) {
    for volume in state.volumes.values() {
        let mut retired = BTreeSet::new();
        for head in &volume.retired {
            assert_eq!(head.volume, volume.id);
            assert!(retired.insert(head.inode), "retired twice: {volume:?}");
            assert!(checkpoints(volume).all(|kept| !kept.has_inode_of(head)), "{volume:?}");
        }
    }
}

fn only_the_living_hold_read_and_are_asked(state: &State) {
    for volume in state.volumes.values() {
        if let Some(lock) = &volume.lock {
            assert!(state.sessions.contains_key(&lock.session), "{volume:?}");
            assert_eq!(lock.epoch, volume.epoch);
        }
        assert!(volume.asks.is_empty() || volume.lock.is_some(), "{volume:?}");
        assert!(volume.asks.len() <= 16 && volume.answers.len() <= 16, "{volume:?}");
        for snapshot in &volume.snapshots {
            assert!(snapshot.readers.iter().all(|it| state.sessions.contains_key(it)));
        }
    }
}

/// A checkpoint goes by the next one, by restoring and by deleting a snapshot; the last two retire.
fn no_checkpoint_is_lost(before: &State, command: &Command, after: &State) {
    let (Command::RestoreSnapshot { volume, .. } | Command::DeleteSnapshot { volume, .. }) =
        command
    else {
        return;
    };
    let (Some(before), Some(after)) = (before.volumes.get(volume), after.volumes.get(volume))
    else {
        return;
    };
    for head in checkpoints(before).filter(|head| head.volume == *volume) {
        let mut kept = checkpoints(after).chain(&after.retired);
        assert!(kept.any(|kept| kept.has_inode_of(head)), "{head:?} of {after:?}");
    }
}

fn logs_and_counters_only_go_forward(before: &State, after: &State) {
    assert!(before.volumes_minted <= after.volumes_minted);
    for (id, volume) in &after.volumes {
        let Some(old) = before.volumes.get(id) else { continue };
        let log = |volume: &Volume| volume.head.as_ref().map(|head| head.position);
        assert!(log(old) <= log(volume), "{old:?} {volume:?}");
        assert!(old.epoch <= volume.epoch && old.inode_index <= volume.inode_index);
        assert!(old.snapshots_minted <= volume.snapshots_minted);
    }
}

fn checkpoints(volume: &Volume) -> impl Iterator<Item = &Head> {
    volume.head.iter().chain(volume.snapshots.iter().map(|snapshot| &snapshot.head))
}

/// What somebody knows who has seen every event.
#[derive(Default)]
struct Watcher {
    volumes: BTreeMap<VolumeId, Volume>,
    sessions: BTreeMap<SessionId, Session>,
}

impl Watcher {
    fn see(&mut self, event: Event) {
        match event {
            Event::VolumeChanged(volume) => drop(self.volumes.insert(volume.id, volume)),
            Event::VolumeDeleted(volume) => drop(self.volumes.remove(&volume)),
            Event::SessionOpened(session) => drop(self.sessions.insert(session.id, session)),
            Event::SessionEnded(session) => drop(self.sessions.remove(&session)),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_commands_keep_what_is_promised(draws in proptest::collection::vec(any::<Draw>(), 300)) {
        let mut machine = Machine::default();
        machine.change(1, fixtures::init()).unwrap();
        let mut watcher = Watcher::default();
        for (index, draw) in (2..).zip(draws) {
            let before = machine.state.clone();
            let command = command(&before, draw);
            let (response, events) = machine.state.apply(index, command.clone());
            let after = &machine.state;
            let changed = response.is_ok_and(|applied| applied.revision > before.revision());
            prop_assert_eq!(&before != after, changed, "{:?}", command);
            let next = Revision(before.revision().0 + u64::from(changed));
            prop_assert_eq!(after.revision(), next);
            events.into_iter().for_each(|event| watcher.see(event));
            prop_assert_eq!(&watcher.volumes, &after.volumes);
            prop_assert_eq!(&watcher.sessions, &after.sessions);
            every_name_is_one_volumes(after);
            every_parent_is_there_as_long_as_it_is_needed(after);
            nothing_that_is_needed_is_retired(after);
            only_the_living_hold_read_and_are_asked(after);
            no_checkpoint_is_lost(&before, &command, after);
            logs_and_counters_only_go_forward(&before, after);
        }
        let mut bytes = Vec::new();
        write_snapshot(Image::of(&machine), &mut bytes).unwrap();
        prop_assert_eq!(read_snapshot(&mut &*bytes).unwrap().state, machine.state);
    }
}
