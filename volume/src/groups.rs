//! Volumes that stop at one moment, for a snapshot of all of them.
//!
//! Each volume of a group takes no more writes from when it [enters](Groups::enter) until it has
//! fixed what its snapshot will hold, and fixes that only when all have entered. So a write that one
//! snapshot lacks was acknowledged after every volume had stopped, and nothing that was written
//! because of it can be in another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use torus_blockstore::VolumeId;
use torus_metadata::AskId;

use crate::Error;

/// How long the first of a group stands still for the last.
const PATIENCE: Duration = Duration::from_secs(5);

/// The groups that are being gathered; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    gathering: Arc<Mutex<BTreeMap<AskId, watch::Sender<BTreeSet<VolumeId>>>>>,
}

impl Groups {
    /// Enters a volume, which stands still from now on; done when all `members` have entered.
    pub(crate) fn enter(
        &self,
        ask: AskId,
        volume: VolumeId,
        members: BTreeSet<VolumeId>,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let mut entered = {
            let mut gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
            let group = gathering.entry(ask).or_default();
            group.send_modify(|entered| {
                entered.insert(volume);
            });
            group.subscribe()
        };
        let groups = self.clone();
        async move {
            let all = entered.wait_for(|entered| entered.is_superset(&members));
            let is_complete = matches!(timeout(PATIENCE, all).await, Ok(Ok(_)));
            let mut gathering = groups.gathering.lock().unwrap_or_else(PoisonError::into_inner);
            gathering.remove(&ask);
            if is_complete { Ok(()) } else { Err(Error::Scattered) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(id: u64) -> VolumeId {
        VolumeId::new(id).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_is_complete_when_all_have_entered() {
        let (groups, members) = (Groups::default(), BTreeSet::from([volume(1), volume(2)]));
        let first = tokio::spawn(groups.enter(AskId(7), volume(1), members.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!first.is_finished());
        groups.enter(AskId(7), volume(2), members).await.unwrap();
        first.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let (groups, members) = (Groups::default(), BTreeSet::from([volume(1), volume(2)]));
        let result = groups.enter(AskId(7), volume(1), members).await;
        assert!(matches!(result, Err(Error::Scattered)));
    }
}
