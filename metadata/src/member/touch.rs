//! Whether the group is in reach of this member, and where its members listen.
//!
//! Asks the leader now and then, as a read would: what a follower believes of its leader may be
//! long out of date.

use std::sync::Arc;
use std::time::Duration;

use torus_raft::RaftNode;

use super::core::Core;
use super::{FormerGeneration, MemberState, reign};
use crate::AdminClient;

const EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(1);
/// Silence after which watches are ended, so that their clients ask another member.
const SILENCE: Duration = Duration::from_secs(4);

pub(super) async fn keep(core: Arc<Core>, node: Arc<RaftNode>) {
    let mut last = reign::now();
    loop {
        if node.linearize(PATIENCE).await.is_ok() {
            last = reign::now();
        }
        let in_touch = last.elapsed() < SILENCE;
        core.in_touch.send_if_modified(|was| std::mem::replace(was, in_touch) != in_touch);
        // A learner sends nothing that could be refused.
        if (node.was_refused() || !in_touch)
            && let Some(former) = outlived(&core, &node).await
        {
            core.set_state(MemberState::Failed(Arc::new(former)));
            return;
        }
        let members: Vec<_> =
            node.status().members.into_iter().map(|member| member.address).collect();
        if !members.is_empty() {
            core.addresses.send_if_modified(|was| {
                let changed = *was != members;
                *was = members;
                changed
            });
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Whether another group has gone on with this cluster's state where this member looks for others.
async fn outlived(core: &Core, node: &RaftNode) -> Option<FormerGeneration> {
    let own = {
        let state = &core.replica.read().state;
        // A newcomer knows nothing of its generation yet.
        state.global.as_ref().map(|_| state.generation())?
    };
    for member in node.status().members {
        if let Some(Ok(found)) = AdminClient::probe(&core.tuning.dial, &member.address).await
            && found.cluster == core.cluster(node)
            && found.generation > own
        {
            let (present, address) = (found.generation, member.address);
            return Some(FormerGeneration { own, present, address, dir: core.options.dir.clone() });
        }
    }
    None
}
