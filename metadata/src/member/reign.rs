//! Sessions, while this member leads: listens to keep-alives and ends who is silent.
//!
//! A leader first commits a tenure of its own. From then on no expiry of an earlier leader takes
//! effect, and it answers keep-alives only while that tenure is the newest, so the time of every
//! session that it finds begins anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use torus_raft::RaftNode;

use super::core::Core;
use crate::SessionId;
use crate::deadlines::Deadlines;
use crate::machine::{Proposal, Tenure};
use crate::wire::Failure;

/// How often sessions are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Sessions that are ended in one entry of the log.
const BATCH: usize = 200;

/// The memory of a leader that has begun its tenure.
pub(super) struct Reign {
    pub(super) tenure: Tenure,
    pub(super) deadlines: Deadlines,
}

pub(super) async fn watch_sessions(core: Arc<Core>, node: Arc<RaftNode>) {
    let mut leadership = node.leadership();
    loop {
        if leadership.wait_for(|now| now.is_self).await.is_err() {
            return;
        }
        if let Some(tenure) = begin(&core, &node).await {
            tracing::info!("this member listens to the sessions now");
            let lost = async { leadership.wait_for(|now| !now.is_self).await.is_ok() };
            tokio::select! {
                _ = lost => {}
                () = listen(&core, &node, tenure) => {}
            }
            *core.reign() = None;
            tracing::info!("this member no longer listens to the sessions");
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Commits a new tenure, and gives every session its full time. An election may have taken up to
/// its longest time, in which nobody could be heard.
async fn begin(core: &Core, node: &RaftNode) -> Option<Tenure> {
    let tenure = Tenure(rand::random_range(1..=u64::MAX));
    core.propose(node, Proposal::BeginTenure(tenure)).await.ok()?.ok()?;
    let machine = core.replica.read();
    if machine.tenure != tenure {
        return None;
    }
    let extra = Duration::from_millis(core.tuning.timing.election_max_ms);
    let mut deadlines = Deadlines::default();
    deadlines.follow(machine.state.sessions(), now(), extra);
    *core.reign() = Some(Reign { tenure, deadlines });
    Some(tenure)
}

/// Ends silent sessions until the tenure is over.
async fn listen(core: &Core, node: &RaftNode, tenure: Tenure) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(due) = due(core, tenure) else { return };
        if due.is_empty() {
            continue;
        }
        for session in &due {
            tracing::info!(%session, "the session was silent for too long, and is ended");
        }
        // Until it is decided, the sessions can neither be prolonged nor given up.
        let expire = Proposal::Expire { tenure, sessions: due };
        while let Err(failure) = core.propose(node, expire.clone()).await {
            if let Failure::NotLeader { .. } | Failure::NotInitialised = failure {
                return;
            }
        }
    }
}

/// The sessions whose time is over; `None` when another leader has begun a tenure.
fn due(core: &Core, tenure: Tenure) -> Option<Vec<SessionId>> {
    let machine = core.replica.read();
    if machine.tenure != tenure {
        return None;
    }
    let mut reign = core.reign();
    let reign = reign.as_mut()?;
    let now = now();
    reign.deadlines.follow(machine.state.sessions(), now, Duration::ZERO);
    Some(reign.deadlines.due(now, BATCH))
}

pub(super) fn now() -> Instant {
    Instant::now()
}
