//! Weighted consistent hashing: every member has points on a circle of 64-bit numbers, as many as
//! its weight is worth; a block belongs to the members of the points that follow its own.
//!
//! A member of average weight has [`POINTS_PER_MEMBER`] points, so that shares follow the weights
//! within a few percent. Point `j` of a peer is one half of
//! `MD5(16 bytes of its UUID, u32 little-endian j / 2)`, as `u64` little-endian: the first half for
//! even `j`, the second for odd. It depends on nothing but the peer, so that a join or a changed
//! weight moves only what has to move. A block's own place is the first half of the MD5 of its
//! 24 bytes. MD5 serves as a mixing function that every platform has alike, not as protection:
//! whoever chooses block references owns the volume anyway.
//!
//! Members whose weight earns no point stand at the end of every walk, in their stored order.
//!
//! Source: libketama and CoreOS Torus, `ring/ketama.go`, which has 120 points of 32 bits a member.

use md5::{Digest, Md5};
use torus_blockstore::BlockRef;
use torus_metadata::RingMember;

/// Points of a member of average weight.
const POINTS_PER_MEMBER: u128 = 2048;

/// The circle: points in ascending order with the index of their member.
#[derive(Debug, Default)]
pub(super) struct Points(Vec<(u64, u32)>);

impl Points {
    pub(super) fn new(members: &[RingMember]) -> Self {
        let total: u128 = members.iter().map(|member| u128::from(member.weight)).sum();
        let all_points = POINTS_PER_MEMBER * members.len() as u128;
        let mut points = Vec::new();
        for (at, member) in (0_u32..).zip(members) {
            let share = all_points * u128::from(member.weight);
            let count = share.checked_div(total).and_then(|count| u32::try_from(count).ok());
            points.extend((0..count.unwrap_or_default()).map(|j| (point(member, j), at)));
        }
        // Equal points, should they ever occur, stand in the order of the members.
        points.sort_unstable();
        Self(points)
    }

    /// The indexes of all `members` in the order in which their points follow the block's.
    pub(super) fn walk(&self, block: &BlockRef, members: usize) -> Vec<usize> {
        let key = halves(Md5::digest(block.encode()).into())[0];
        let start = self.0.partition_point(|&(point, _)| point <= key);
        let mut seen = vec![false; members];
        let mut order = Vec::with_capacity(members);
        for &(_, at) in self.0[start..].iter().chain(&self.0[..start]) {
            let at = at as usize;
            if !seen[at] {
                seen[at] = true;
                order.push(at);
                if order.len() == members {
                    return order;
                }
            }
        }
        order.extend((0..members).filter(|&at| !seen[at]));
        order
    }
}

fn point(member: &RingMember, j: u32) -> u64 {
    let digest = Md5::new().chain_update(member.peer.encode()).chain_update((j / 2).to_le_bytes());
    halves(digest.finalize().into())[(j % 2) as usize]
}

fn halves(digest: [u8; 16]) -> [u64; 2] {
    let number = u128::from_le_bytes(digest);
    let mask = u128::from(u64::MAX);
    [number & mask, number >> 64].map(|half| u64::try_from(half).unwrap_or_default())
}
