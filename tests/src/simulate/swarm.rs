//! What one run is like: size, speed and which kinds of faults it has, drawn from its seed.
//!
//! Every kind is switched on or off for each seed (swarm testing), because some bugs only show
//! where other faults stay away. Rates are in parts of a million.

use std::ops::Range;

use super::chance::Chance;

/// The settings of one run.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    pub(crate) nodes: u64,
    pub(crate) replication: u32,
    pub(crate) volumes: u64,
    /// 4 KiB pages of each volume.
    pub(crate) pages: u64,
    /// Simulated time under faults.
    pub(crate) unsafe_ms: u64,
    /// Between two steps of the nemesis.
    pub(crate) pace_ms: u64,
    /// A message's way.
    pub(crate) delay_ms: Range<u64>,
    /// A message that takes its connection with it.
    pub(crate) loss: u64,
    /// A message that takes much longer.
    pub(crate) lag: u64,
    /// An answer of the metadata service that is lost behind its effect.
    pub(crate) meta_loss: u64,
    /// A command that arrives long after its sender gave up.
    pub(crate) meta_late: u64,
    pub(crate) partitions: bool,
    pub(crate) node_crashes: bool,
    pub(crate) node_kills: bool,
    pub(crate) power_loss: bool,
    pub(crate) client_crashes: bool,
    pub(crate) takeovers: bool,
    pub(crate) pauses: bool,
    pub(crate) meta_outages: bool,
    pub(crate) slow_disks: bool,
    pub(crate) hung_disks: bool,
    pub(crate) failed_syncs: bool,
    pub(crate) failed_reads: bool,
    pub(crate) rot: bool,
    pub(crate) misdirected: bool,
    pub(crate) lost_writes: bool,
    pub(crate) full: bool,
    pub(crate) ring_changes: bool,
    pub(crate) snapshots: bool,
    pub(crate) resizes: bool,
    /// Requests that a client has under way.
    pub(crate) depth: u64,
    /// Between two requests of a client.
    pub(crate) think_ms: Range<u64>,
    /// Blocks that a window permits.
    pub(crate) window_blocks: u64,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) cache_bytes: usize,
    pub(crate) buffer_bytes: usize,
    pub(crate) map_bytes: usize,
    pub(crate) ttl_ms: u64,
    pub(crate) deletions: bool,
    pub(crate) groups: bool,
    pub(crate) renames: bool,
}

impl Swarm {
    /// Nothing goes wrong of itself.
    pub(crate) fn quiet(nodes: u64, replication: u32) -> Self {
        let off = false;
        Self {
            nodes,
            replication,
            volumes: 1,
            pages: 16,
            unsafe_ms: 0,
            pace_ms: 1,
            delay_ms: 0..1,
            loss: 0,
            lag: 0,
            meta_loss: 0,
            meta_late: 0,
            partitions: off,
            node_crashes: off,
            node_kills: off,
            power_loss: off,
            client_crashes: off,
            takeovers: off,
            pauses: off,
            meta_outages: off,
            slow_disks: off,
            hung_disks: off,
            failed_syncs: off,
            failed_reads: off,
            rot: off,
            misdirected: off,
            lost_writes: off,
            full: off,
            ring_changes: off,
            snapshots: off,
            resizes: off,
            depth: 1,
            think_ms: 0..1,
            window_blocks: 2,
            checkpoint_bytes: 1 << 20,
            cache_bytes: 128 << 10,
            buffer_bytes: 64 << 10,
            map_bytes: 1 << 20,
            ttl_ms: 1000,
            deletions: off,
            groups: off,
            renames: off,
        }
    }

    /// The settings under `seed`.
    pub(crate) fn draw(seed: u64) -> Self {
        let chance = Chance::new(seed, "swarm");
        let on = |percent: u64| chance.happens(percent * 10_000);
        let rate = |percent: u64, range: Range<u64>| {
            let rate = chance.within(range);
            if on(percent) { rate } else { 0 }
        };
        let replication = *chance.pick(&[1, 2, 2, 3, 3, 3, 3]);
        let nodes = u64::from(replication) + chance.within(0..3);
        let slow = on(20);
        // Whoever does not think writes as much in a tenth of the time.
        let is_hasty = on(40);
        let swarm = Self {
            nodes,
            replication,
            volumes: 1 + u64::from(on(20)),
            pages: *chance.pick(&[16, 64, 64, 128]),
            unsafe_ms: chance.within(20_000..120_000) / if is_hasty { 10 } else { 1 },
            pace_ms: *chance.pick(&[300, 1000, 3000]) / if is_hasty { 3 } else { 1 },
            delay_ms: if slow { 1..60 } else { 0..4 },
            loss: rate(40, 100..20_000),
            lag: rate(40, 100..30_000),
            meta_loss: rate(50, 1000..150_000),
            meta_late: rate(40, 1000..100_000),
            partitions: on(50),
            node_crashes: on(60),
            node_kills: on(30),
            power_loss: on(35),
            client_crashes: on(80),
            takeovers: on(60),
            pauses: on(40),
            meta_outages: on(40),
            slow_disks: on(30),
            hung_disks: on(20),
            failed_syncs: on(40),
            failed_reads: on(25),
            rot: on(35),
            misdirected: on(25),
            lost_writes: on(25),
            full: on(15),
            ring_changes: on(35),
            snapshots: on(50),
            resizes: on(30),
            depth: *chance.pick(&[1, 4, 16]),
            think_ms: if is_hasty { 0..6 } else { 0..200 },
            window_blocks: *chance.pick(&[2, 4, 16]),
            checkpoint_bytes: *chance.pick(&[128, 256, 1024]) << 10,
            cache_bytes: 128 << 10,
            buffer_bytes: *chance.pick(&[64, 256]) << 10,
            map_bytes: *chance.pick(&[1 << 10, 1 << 20]),
            ttl_ms: *chance.pick(&[1000, 5000]),
            deletions: on(40),
            groups: on(70),
            renames: on(30),
        };
        swarm.made_possible()
    }

    /// Whether a disk forgets what it acknowledged.
    pub(crate) fn loses_writes(&self) -> bool {
        self.misdirected || self.lost_writes
    }

    /// Takes out what nothing could survive.
    fn made_possible(mut self) -> Self {
        if self.replication < 3 {
            self.misdirected = false;
            self.lost_writes = false;
        }
        if self.loses_writes() {
            // A recovery that reaches only the disk that lies cannot know better.
            self.partitions = false;
            self.power_loss = false;
            self.full = false;
            self.loss = 0;
            self.lag = 0;
        }
        self
    }
}
