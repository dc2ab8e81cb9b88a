//! How full peers are, and what follows from it.
//!
//! Every peer keeps a *reserve* of its store. Checkpoints and garbage collection need some room
//! before they free more, and what was accepted from clients has to go somewhere:
//!
//! | free blocks         | the peer takes                               | new blocks are placed there |
//! |---------------------|----------------------------------------------|-----------------------------|
//! | above the reserve   | everything                                   | yes                         |
//! | in the reserve      | no copies that repair or rebalancing add     | yes                         |
//! | in its last quarter | of writers only whole blocks: no data is     | if there are too few others |
//! |                     | begun, but checkpoints and recovery go on    |                             |
//! | none                | what needs no block                          | no                          |
//!
//! When too few peers have room the cluster is full, and writers take nothing new: what is left of
//! the reserves is for what they hold already.
//!
//! Pure: what peers said goes in. A peer that has not said how full it is counts as empty; it
//! refuses what it cannot take.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use torus_blockstore::{Geometry, PeerId};

use crate::Status;

/// The reserve is this part of the store,
const PART: u64 = 20;
/// but no less than so many bytes,
const LEAST_BYTES: u64 = 64 << 20;
/// and never more than this part.
const LARGEST_PART: u64 = 4;
/// A peer that has no more than this part of its reserve left is as good as full.
const SPENT_PART: u64 = 4;

/// How full a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub used_blocks: u64,
    pub geometry: Geometry,
}

impl Usage {
    /// What a peer with blocks of this size says in its status.
    pub fn of(status: &Status, block_size: u32) -> Self {
        let geometry = Geometry { block_size, capacity_blocks: status.capacity_blocks };
        Self { used_blocks: status.used_blocks, geometry }
    }

    /// Blocks that the store can still take.
    pub fn free_blocks(&self) -> u64 {
        self.geometry.capacity_blocks.saturating_sub(self.used_blocks)
    }

    /// Whether a block can be added without the reserve.
    pub fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Bytes of blocks that can be added without the reserve.
    fn room(&self) -> u64 {
        let blocks = self.free_blocks().saturating_sub(reserve_blocks(self.geometry));
        blocks.saturating_mul(self.geometry.block_size.into())
    }

    /// Whether (nearly) all of the reserve is in use.
    pub(crate) fn is_spent(&self) -> bool {
        self.free_blocks() <= reserve_blocks(self.geometry) / SPENT_PART
    }
}

/// How many blocks of a store are its reserve: the larger of 5 % and 64 MiB, but no more than a
/// quarter.
pub fn reserve_blocks(store: Geometry) -> u64 {
    let least = LEAST_BYTES.div_ceil(store.block_size.max(1).into());
    let largest = store.capacity_blocks / LARGEST_PART;
    store.capacity_blocks.div_ceil(PART).max(least).min(largest)
}

/// Bytes of blocks that writers can add before too few peers have room, where blocks have `copies`
/// and these members of the ring are up; `u64::MAX` if nobody has said how full it is.
///
/// A peer with more room than all the others together has with what is left of the copies cannot
/// use the surplus: each block is on it at most once.
pub(crate) fn room(copies: usize, live: &[Option<Usage>]) -> u64 {
    let room = |usage: &Option<Usage>| u128::from(usage.map_or(u64::MAX, |usage| usage.room()));
    let mut rooms: Vec<u128> = live.iter().map(room).collect();
    rooms.sort_unstable();
    let (mut copies, mut total) = (copies.min(live.len()) as u128, rooms.iter().sum::<u128>());
    while copies > 1
        && let Some(largest) = rooms.pop_if(|largest| *largest > total / copies)
    {
        (copies, total) = (copies - 1, total - largest);
    }
    total.checked_div(copies).map_or(u64::MAX, |room| room.try_into().unwrap_or(u64::MAX))
}

/// Which of these peers, all well, get no new blocks: those without a free one, and those that are
/// nearly so, the fullest first, while `needed` others remain.
pub(crate) fn passed_over(needed: usize, well: &[(PeerId, Option<Usage>)]) -> BTreeSet<PeerId> {
    let mut spent: Vec<(u64, PeerId)> = well
        .iter()
        .filter_map(|&(peer, usage)| {
            usage.filter(Usage::is_spent).map(|usage| (usage.free_blocks(), peer))
        })
        .collect();
    spent.sort_by_key(|&(free, _)| Reverse(free));
    let missing = needed.saturating_sub(well.len() - spent.len());
    let taken = spent.iter().take(missing).filter(|&&(free, _)| free > 0).count();
    spent.split_off(taken).into_iter().map(|(_, peer)| peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const MIB: u32 = 1 << 20;

    fn reserve(block_size: u32, capacity_blocks: u64) -> u64 {
        reserve_blocks(Geometry { block_size, capacity_blocks })
    }

    #[test]
    fn the_reserve_is_a_twentieth_or_64_mib_or_a_quarter() {
        let rows = [0, 1, 3, 4, 100, 256, 257, 1000, 1280, 1281, 100_000].map(|capacity| {
            format!("{capacity}: {} {}", reserve(MIB, capacity), reserve(512 << 10, capacity))
        });
        expect![[r#"
            0: 0 0
            1: 0 0
            3: 0 0
            4: 1 1
            100: 25 25
            256: 64 64
            257: 64 64
            1000: 64 128
            1280: 64 128
            1281: 65 128
            100000: 5000 5000"#]]
        .assert_eq(&rows.join("\n"));
        assert_eq!(reserve(u32::MAX, u64::MAX), u64::MAX.div_ceil(20));
    }

    /// Peers 1, 2, … with so many free blocks of 1000 (1 MiB each: 64 are the reserve, 16 its last
    /// quarter), `?` for one that has said nothing, `x` for one that is down: whether a ring with
    /// `copies` is full, and whom a placement passes over.
    #[track_caller]
    fn check(copies: usize, peers: &str, expected: Expect) {
        let geometry = Geometry { block_size: MIB, capacity_blocks: 1000 };
        let mut live = Vec::new();
        for (number, word) in (1_u128..).zip(peers.split_whitespace()) {
            let usage = match word {
                "x" => continue,
                "?" => None,
                free => Some(Usage { used_blocks: 1000 - free.parse::<u64>().unwrap(), geometry }),
            };
            live.push((PeerId::decode(number.to_be_bytes()), usage));
        }
        let passed = passed_over(copies, &live);
        let passed: Vec<_> = passed.iter().map(|peer| peer.0.as_u128().to_string()).collect();
        let usages: Vec<_> = live.iter().map(|&(_, usage)| usage).collect();
        let room = match room(copies, &usages) {
            0 => String::from("full"),
            u64::MAX => String::from("room"),
            room => format!("room for {} MiB", room >> 20),
        };
        expected.assert_eq(format!("{room}, without {}", passed.join(" ")).trim_end());
    }

    #[test]
    fn a_ring_is_full_when_too_few_peers_have_room() {
        check(2, "1000 1000 1000", expect!["room for 1404 MiB, without"]);
        check(2, "65 65 64", expect!["room for 1 MiB, without"]);
        check(2, "65 64 64", expect!["full, without"]);
        check(1, "64 65", expect!["room for 1 MiB, without"]);
    }

    #[test]
    fn peers_that_are_down_are_not_blamed() {
        check(3, "65 65 x", expect!["room for 1 MiB, without"]);
        check(3, "65 64 x", expect!["full, without"]);
        check(3, "x x x", expect!["room, without"]);
        check(3, "", expect!["room, without"]);
    }

    #[test]
    fn silence_is_no_lack_of_room() {
        check(2, "? ?", expect!["room, without"]);
        check(2, "? 0", expect!["full, without 2"]);
    }

    #[test]
    fn spent_peers_are_passed_over_while_enough_remain() {
        check(2, "100 100 17", expect!["room for 36 MiB, without"]);
        check(2, "100 100 16", expect!["room for 36 MiB, without 3"]);
        check(2, "16 100 5", expect!["full, without 3"]);
        check(2, "3 9 5", expect!["full, without 1"]);
        check(3, "3 9 5", expect!["full, without"]);
    }

    #[test]
    fn a_peer_without_a_free_block_is_always_passed_over() {
        check(3, "100 100 0", expect!["full, without 3"]);
        check(2, "0 0", expect!["full, without 1 2"]);
    }
}
