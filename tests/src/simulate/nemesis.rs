//! What goes wrong in a run, and when: one fault after another, each undone after a while.
//!
//! Damage to media follows an atlas: at most one node of a run loses or changes what its disk has
//! acknowledged, and only where two others hold each block, so that no block loses all its copies.
//! Nothing can tell that a disk has lost the end of the log, except another copy: where writes go
//! astray, the other nodes are always to be reached (see `Swarm`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use torus_blockstore::{Astray, BlockState, BlockStore, Fault};
use torus_metadata::RingKind;

use super::BLOCK_SIZE;
use super::chance::Chance;
use super::cluster::{AMPLE, Cluster};
use super::network::{FIRST_CLIENT, Host, Hosts, META};
use super::node::{End, Node};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Partition,
    Isolation,
    NodeCrash,
    NodeKill,
    PowerLoss,
    CrashInside,
    NodePause,
    ClientPause,
    MetadataOutage,
    SlowDisk,
    HungDisk,
    FailedSync,
    FailedRead,
    Rot,
    Misdirected,
    LostWrite,
    Ring,
}

pub(crate) struct Nemesis {
    cluster: Arc<Cluster>,
    chance: Chance,
    kinds: Vec<Kind>,
    /// The node whose medium may be damaged.
    victim: usize,
}

impl Nemesis {
    pub(crate) fn new(cluster: &Arc<Cluster>) -> Self {
        let swarm = &cluster.context.swarm;
        let chance = Chance::new(cluster.context.seed, "nemesis");
        let damage = swarm.replication >= 3;
        let kinds = [
            (swarm.partitions, Kind::Partition),
            (swarm.partitions, Kind::Isolation),
            (swarm.node_crashes, Kind::NodeCrash),
            (swarm.node_crashes, Kind::CrashInside),
            (swarm.node_kills, Kind::NodeKill),
            (swarm.power_loss, Kind::PowerLoss),
            (swarm.pauses, Kind::NodePause),
            (swarm.pauses, Kind::ClientPause),
            (swarm.meta_outages, Kind::MetadataOutage),
            (swarm.slow_disks, Kind::SlowDisk),
            (swarm.hung_disks, Kind::HungDisk),
            (swarm.failed_syncs, Kind::FailedSync),
            (swarm.failed_reads, Kind::FailedRead),
            (swarm.rot && damage, Kind::Rot),
            (swarm.misdirected, Kind::Misdirected),
            (swarm.lost_writes, Kind::LostWrite),
            (swarm.ring_changes, Kind::Ring),
        ];
        let kinds = kinds.into_iter().filter_map(|(on, kind)| on.then_some(kind)).collect();
        let victim = usize::try_from(chance.within(0..swarm.nodes)).unwrap_or(0);
        Self { cluster: Arc::clone(cluster), chance, kinds, victim }
    }

    /// Does harm until it is dropped.
    pub(crate) async fn run(self) {
        if self.kinds.is_empty() {
            return std::future::pending().await;
        }
        loop {
            sleep(self.chance.millis(0..2 * self.cluster.context.swarm.pace_ms)).await;
            self.act(*self.chance.pick(&self.kinds)).await;
        }
    }

    /// Undoes everything, and brings up what is down. A store that was damaged may refuse to start:
    /// then the ring goes on without it.
    pub(crate) async fn heal(cluster: &Arc<Cluster>) {
        cluster.network.heal_all();
        for node in &cluster.nodes {
            node.hang(Duration::ZERO);
            node.slow_down(1);
            node.set_capacity(node.capacity().max(AMPLE));
            // A store that met a failed sync takes nothing more, and one that was full is to grow.
            node.stop(End::Power);
            node.disk().heal();
            node.start(&cluster.nodes);
        }
        let runs = |&index: &usize| cluster.nodes[index].life().is_some();
        let running: Vec<usize> = (0..cluster.nodes.len()).filter(runs).collect();
        if running.len() < cluster.nodes.len() {
            cluster.context.trace.sometimes("a damaged store refused to start");
            cluster.change_ring(RingKind::Mod, &running).await;
        }
    }

    fn node(&self) -> &Arc<Node> {
        let drawn = self.chance.pick(&self.cluster.nodes);
        if self.cluster.context.swarm.loses_writes() {
            return &self.cluster.nodes[self.victim];
        }
        drawn
    }

    /// How long a fault lasts: mostly briefly.
    fn time(&self) -> Duration {
        let roof = *self.chance.pick(&[500, 3000, 3000, 10_000, 30_000]);
        self.chance.millis(50..roof)
    }

    fn some_hosts(&self) -> Hosts {
        let nodes = u32::try_from(self.cluster.nodes.len()).unwrap_or(0);
        let clients = 2 * u32::try_from(self.cluster.context.swarm.volumes).unwrap_or(0);
        let all = (0..nodes).chain(FIRST_CLIENT..FIRST_CLIENT + clients).chain([META.0]);
        all.map(Host).filter(|_| self.chance.happens(500_000)).map(Host::set).sum()
    }

    #[expect(clippy::too_many_lines, reason = "an arm for each fault")]
    async fn act(&self, kind: Kind) {
        let trace = &self.cluster.context.trace;
        let node = Arc::clone(self.node());
        let time = self.time();
        trace.note("nemesis", &[kind as u64, node.host().0.into()]);
        match kind {
            Kind::Partition => {
                let (one, other) = (self.some_hosts(), self.some_hosts());
                let (one, other) = (one, other & !one);
                trace.sometimes("the network was partitioned");
                self.cut(one, other, time);
                if self.chance.happens(600_000) {
                    self.cut(other, one, time);
                }
            }
            Kind::Isolation => {
                let one = node.host().set();
                self.cut(one, Hosts::MAX & !one, time);
                if self.chance.happens(600_000) {
                    self.cut(Hosts::MAX & !one, one, time);
                }
            }
            Kind::NodeCrash => {
                trace.sometimes("a node lost power");
                node.stop(End::Power);
                self.restart(node, time);
            }
            Kind::CrashInside => {
                // It notices when it next uses the disk.
                node.disk().crash_after(self.chance.within(0..12));
                trace.sometimes("a node lost power inside an operation");
                self.restart(node, time);
            }
            Kind::NodeKill => {
                trace.sometimes("a node was killed");
                node.stop(End::Kill);
                self.restart(node, time);
            }
            Kind::PowerLoss => {
                trace.sometimes("all nodes lost power");
                for node in &self.cluster.nodes {
                    node.stop(End::Power);
                    self.restart(Arc::clone(node), self.time());
                }
            }
            Kind::NodePause => self.cluster.network.pause(node.host(), time),
            Kind::ClientPause => {
                let clients = 2 * self.cluster.context.swarm.volumes;
                let number = u32::try_from(self.chance.within(0..clients)).unwrap_or(0);
                trace.sometimes("a client was paused");
                self.cluster.network.pause(Host(FIRST_CLIENT + number), time);
            }
            Kind::MetadataOutage => {
                trace.sometimes("the metadata was out of reach");
                self.cut(Hosts::MAX & !META.set(), META.set(), time);
            }
            Kind::SlowDisk => {
                node.slow_down(*self.chance.pick(&[3, 30, 300]));
                self.later(time, move |_| node.slow_down(1));
            }
            Kind::HungDisk => {
                trace.sometimes("a disk hung");
                node.hang(time);
            }
            Kind::FailedSync => {
                node.disk().fail(self.chance.within(1..10), Fault::Io);
                // Such a store must be opened again.
                let down = self.time();
                self.later(time, move |cluster| {
                    node.stop(End::Power);
                    restart_later(cluster, node, down);
                });
            }
            Kind::FailedRead => node.disk().fail_read(self.chance.within(1..20)),
            Kind::Rot => self.rot(),
            Kind::Misdirected => {
                // To another slot, mostly, as a wrong bit of an address does.
                let slots = self.chance.within(1..12) * u64::from(BLOCK_SIZE);
                let by = if self.chance.happens(200_000) { 4096 } else { slots };
                self.astray(Astray::Misdirected { by });
            }
            Kind::LostWrite => self.astray(Astray::Lost),
            Kind::Ring => self.change_ring().await,
        }
    }

    fn cut(&self, from: Hosts, to: Hosts, time: Duration) {
        let cut = self.cluster.network.cut(from, to);
        self.later(time, move |cluster| cluster.network.heal(cut));
    }

    fn restart(&self, node: Arc<Node>, time: Duration) {
        restart_later(&self.cluster, node, time);
    }

    fn later(&self, time: Duration, undo: impl FnOnce(&Arc<Cluster>) + Send + 'static) {
        let cluster = Arc::clone(&self.cluster);
        tokio::spawn(async move {
            sleep(time).await;
            if !cluster.context.is_calm() {
                undo(&cluster);
            }
        });
    }

    /// Changes a byte of a sealed block of the victim that others hold too.
    fn rot(&self) {
        let victim = &self.cluster.nodes[self.victim];
        let Some(life) = victim.life() else { return };
        let sealed = |(_, state): &(_, BlockState)| matches!(state, BlockState::Sealed(_));
        let blocks = life.store().list(None, usize::MAX);
        let blocks: Vec<_> = blocks.into_iter().filter(sealed).collect();
        if blocks.is_empty() {
            return;
        }
        let (block, state) = *self.chance.pick(&blocks);
        let BlockState::Sealed(seal) = state else { return };
        let others = self.cluster.nodes.iter().filter(|node| node.peer() != victim.peer());
        let holders = others.filter_map(|node| node.life());
        let holders = holders.filter(|life| life.store().state(block) == Some(state)).count();
        if holders == 0 || seal.length == 0 {
            return;
        }
        let Some(place) = life.store().place_of(block) else { return };
        let offset = self.chance.within(0..u64::from(seal.length));
        victim.disk().corrupt(Path::new("/data/block/data-current.blk"), place + offset);
        self.cluster.context.trace.sometimes("a sealed copy rotted");
    }

    fn astray(&self, how: Astray) {
        let victim = &self.cluster.nodes[self.victim];
        victim.disk().go_astray(self.chance.within(1..20), how);
        self.cluster.context.trace.sometimes(match how {
            Astray::Lost => "a write was lost",
            Astray::Misdirected { .. } => "a write was misdirected",
        });
    }

    async fn change_ring(&self) {
        let all = self.cluster.nodes.len();
        let fewest = self.cluster.context.swarm.replication as usize;
        let mut members: Vec<usize> = (0..all).collect();
        while members.len() > fewest && self.chance.happens(500_000) {
            let out = self.chance.within(0..members.len() as u64);
            members.remove(usize::try_from(out).unwrap_or(0));
        }
        let kind =
            *self.chance.pick(&[RingKind::Mod, RingKind::Mod, RingKind::Mod, RingKind::Ketama]);
        self.cluster.change_ring(kind, &members).await;
    }
}

fn restart_later(cluster: &Arc<Cluster>, node: Arc<Node>, time: Duration) {
    let cluster = Arc::clone(cluster);
    tokio::spawn(async move {
        sleep(time).await;
        while !cluster.context.is_calm() {
            if node.start(&cluster.nodes) {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    });
}
