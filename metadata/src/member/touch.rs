//! Whether the group is in reach of this member, and where its members listen.
//!
//! Asks the leader now and then, as a read would: what a follower believes of its leader may be
//! long out of date.

use std::sync::Arc;
use std::time::Duration;

use torus_raft::RaftNode;

use super::core::Core;
use super::reign;

const EVERY: Duration = Duration::from_millis(500);
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
