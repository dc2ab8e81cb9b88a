//! The calls of all clients, as they were asked and answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use torus_blockstore::VolumeId;

use crate::linear::{self, Call, Verdict};
use crate::models::{RingModel, RingOp, VolumeModel, VolumeOp};
use crate::world::World;

/// The replication of the first ring.
pub(crate) const REPLICATION: u32 = 2;

#[derive(Default)]
pub(crate) struct History(Mutex<Calls>);

#[derive(Default)]
struct Calls {
    ring: Vec<Call<RingOp>>,
    volumes: BTreeMap<VolumeId, Track>,
}

/// The calls about one volume.
#[derive(Default)]
struct Track {
    /// Its INode counter when it was created.
    inode: u64,
    calls: Vec<Call<VolumeOp>>,
}

impl History {
    /// There is a volume.
    pub(crate) fn created(&self, volume: VolumeId, inode: u64) {
        self.calls().volumes.insert(volume, Track { inode, calls: Vec::new() });
    }

    pub(crate) fn volumes(&self) -> Vec<VolumeId> {
        self.calls().volumes.keys().copied().collect()
    }

    /// A call about the ring begins; returns where it stands.
    pub(crate) fn ring_begins(&self, begin: u64, op: RingOp) -> usize {
        let mut calls = self.calls();
        calls.ring.push(Call { begin, end: None, op });
        calls.ring.len() - 1
    }

    pub(crate) fn ring_ends(&self, index: usize, end: u64, op: RingOp) {
        let call = &mut self.calls().ring[index];
        call.end = Some(end);
        call.op = op;
    }

    pub(crate) fn volume_begins(&self, volume: VolumeId, begin: u64, op: VolumeOp) -> usize {
        let mut calls = self.calls();
        let track = calls.volumes.entry(volume).or_default();
        track.calls.push(Call { begin, end: None, op });
        track.calls.len() - 1
    }

    pub(crate) fn volume_ends(&self, volume: VolumeId, index: usize, end: u64, op: VolumeOp) {
        if let Some(track) = self.calls().volumes.get_mut(&volume) {
            track.calls[index].end = Some(end);
            track.calls[index].op = op;
        }
    }

    /// Looks for a sequence of calls that explains what the clients saw.
    pub(crate) fn check(&self, world: &World) {
        let calls = self.calls();
        let ring = RingModel { replication: REPLICATION };
        judge(world, "ring", linear::check(&ring, calls.ring.clone()), calls.ring.len());
        for (volume, track) in &calls.volumes {
            let model = VolumeModel { heard: world.heard_numbers(), inode: track.inode };
            let verdict = linear::check(&model, track.calls.clone());
            judge(world, &format!("volume {volume}"), verdict, track.calls.len());
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn judge(world: &World, what: &str, verdict: Verdict, calls: usize) {
    world.trace.count("calls in histories", calls as u64);
    match verdict {
        Verdict::Linearizable => world.trace.sometimes("a history was checked"),
        Verdict::Undecided => world.trace.sometimes("a history was too hard to check"),
        Verdict::Violated(text) => {
            world.trace.violation(&format!("the history of {what} is not linearizable: {text}"));
        }
    }
}
