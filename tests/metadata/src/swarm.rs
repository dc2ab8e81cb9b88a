//! What a seed has in store: how large the group is, how much is done, and which faults there are.

use std::time::Duration;

use crate::chance::Chance;

/// One seed's choice. The numbers of faults are weights; 0 switches one off.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    pub(crate) members: usize,
    pub(crate) clients: usize,
    pub(crate) volumes: usize,
    pub(crate) snapshot_after: u64,
    pub(crate) keep_entries: u64,
    pub(crate) latency_ms: u64,
    /// How long there are faults.
    pub(crate) unsafe_time: Duration,
    /// The pause of a client between two calls, at most.
    pub(crate) pause_ms: u64,
    pub(crate) faults: Faults,
    /// In how many of a hundred cases a member that has voted is killed at once.
    pub(crate) dies_after_vote: u64,
    /// Whether the leadership is handed round.
    pub(crate) transfers: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) crash: u64,
    pub(crate) crash_all: u64,
    pub(crate) crash_client: u64,
    pub(crate) cut_client: u64,
    pub(crate) partition: u64,
    pub(crate) one_way: u64,
    pub(crate) isolate: u64,
    pub(crate) hold: u64,
    pub(crate) jam: u64,
    pub(crate) slow_disk: u64,
    pub(crate) stuck_disk: u64,
    pub(crate) failed_sync: u64,
}

impl Swarm {
    pub(crate) fn draw(seed: u64) -> Self {
        let chance = Chance::new(seed, "swarm");
        let members = *chance.pick(&[3, 3, 3, 5, 5]);
        let weight = |most: u64| if chance.happens(65) { chance.within(1..most + 1) } else { 0 };
        let faults = Faults {
            crash: weight(6),
            crash_all: weight(1),
            crash_client: weight(2),
            cut_client: weight(3),
            partition: weight(4),
            one_way: weight(4),
            isolate: weight(4),
            hold: weight(4),
            jam: weight(3),
            slow_disk: weight(2),
            stuck_disk: weight(1),
            failed_sync: weight(1),
        };
        Self {
            members,
            clients: usize::try_from(chance.within(3..6)).unwrap_or(3),
            volumes: usize::try_from(chance.within(1..4)).unwrap_or(1),
            snapshot_after: *chance.pick(&[10, 25, 60, 100_000]),
            keep_entries: *chance.pick(&[1, 5, 20]),
            latency_ms: *chance.pick(&[5, 20, 60]),
            unsafe_time: chance.millis(15_000..35_000),
            pause_ms: *chance.pick(&[50, 150, 400]),
            faults,
            dies_after_vote: *chance.pick(&[0, 0, 15, 50]),
            transfers: chance.happens(40),
        }
    }
}
