//! Which peers get new blocks, and whether there is room for them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use torus_blockstore::{PeerId, Placement, PoolError};

use super::{FIRST_WORD, Shared};
use crate::lock::lock;
use crate::space::{passed_over, room};
use crate::{Health, PeerError, Refusal};

/// For how long a peer whose store is failing or far too slow gets no new blocks.
const AILING: Duration = Duration::from_secs(30);

/// For how long one that was full gets none: by then it has said how full it is.
const FULL: Duration = Duration::from_secs(1);

impl Shared {
    /// A failure that the peer is likely to repeat keeps new blocks away from it for a while.
    pub(super) fn note_failure(&self, peer: PeerId, error: &PeerError) {
        let time = match error {
            PeerError::TooSlow | PeerError::Refused(Refusal::Disk) => AILING,
            PeerError::Refused(Refusal::Full) => FULL,
            _ => return,
        };
        let until = Instant::now() + time;
        let mut ailing = lock(&self.ailing);
        let known = ailing.entry(peer).or_insert(until);
        *known = until.max(*known);
    }

    pub(super) fn is_ailing(&self, peer: PeerId, now: Instant) -> bool {
        lock(&self.ailing).get(&peer).is_some_and(|&until| now < until)
    }

    /// A placement on the members of the present ring that are well and not all but full.
    pub(super) async fn place_now(&self) -> Result<Placement, PoolError> {
        let Some(ring) = self.ring().await else {
            return Err(PoolError::UnknownRing { version: 0 });
        };
        let members: Vec<PeerId> = ring.ring().members.iter().map(|member| member.peer).collect();
        let mut health = self.peers.health();
        let all_known = health.wait_for(|health| {
            members.iter().all(|peer| !matches!(health.get(peer), None | Some(Health::Unknown)))
        });
        // A peer that says nothing for so long is as good as down.
        drop(timeout(FIRST_WORD, all_known).await);
        let health = Arc::clone(&self.peers.health().borrow());
        let now = Instant::now();
        let is_well = |peer: &PeerId| {
            matches!(health.get(peer), Some(Health::Up { .. })) && !self.is_ailing(*peer, now)
        };
        let well: Vec<_> = members.iter().copied().filter(is_well).collect();
        let well: Vec<_> = well.into_iter().map(|peer| (peer, self.peers.usage(peer))).collect();
        let passed_over = passed_over(ring.replication(), &well);
        let taken: BTreeSet<PeerId> = well
            .into_iter()
            .map(|(peer, _)| peer)
            .filter(|peer| !passed_over.contains(peer))
            .collect();
        if taken.is_empty() {
            return Err(PoolError::TooFewPeers { found: 0, needed: ring.replication() });
        }
        let excluded = members.into_iter().filter(|peer| !taken.contains(peer)).collect();
        Ok(Placement { ring: ring.version().0, excluded, copies: None })
    }

    /// Bytes of blocks that writers can still add.
    pub(super) fn room(&self) -> u64 {
        let Some(ring) = self.view.borrow().ring.clone() else { return u64::MAX };
        let peers = &self.peers;
        let health = Arc::clone(&peers.health().borrow());
        let members = ring.ring().members.iter().map(|member| member.peer);
        let live: Vec<_> = members
            .filter(|peer| matches!(health.get(peer), Some(Health::Up { .. })))
            .map(|peer| peers.usage(peer))
            .collect();
        room(ring.replication(), &live)
    }
}
