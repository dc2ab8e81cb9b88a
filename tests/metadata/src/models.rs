//! What the metadata promises of a ring and of a volume, as two small objects.

use std::collections::BTreeMap;

use torus_blockstore::Epoch;
use torus_metadata::SessionId;

use crate::linear::{Call, Model};

/// A call about the ring. No answer: `None`.
#[derive(Clone, Debug)]
pub(crate) enum RingOp {
    /// Puts version `version` with this replication in place of the one before.
    Set {
        version: u64,
        replication: u32,
        answer: Option<RingSet>,
    },
    Read {
        answer: Option<(u64, u32)>,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum RingSet {
    Done,
    /// The version is another one.
    Refused {
        current: u64,
    },
}

/// The ring: version and replication.
pub(crate) struct RingModel {
    pub(crate) replication: u32,
}

impl Model for RingModel {
    type State = (u64, u32);
    type Op = RingOp;

    fn initial(&self) -> (u64, u32) {
        (1, self.replication)
    }

    fn step(&self, state: &(u64, u32), call: &Call<RingOp>) -> Vec<(u64, u32)> {
        let follows = |version: u64| version == state.0 + 1;
        match call.op {
            RingOp::Set { version, replication, answer: Some(RingSet::Done) | None }
                if follows(version) =>
            {
                vec![(version, replication)]
            }
            RingOp::Set { version, answer: Some(RingSet::Refused { current }), .. }
                if current == state.0 && !follows(version) =>
            {
                vec![*state]
            }
            RingOp::Set { .. } => vec![],
            RingOp::Read { answer } if answer.is_none_or(|found| found == *state) => vec![*state],
            RingOp::Read { .. } => vec![],
        }
    }
}

/// A call about one volume.
#[derive(Clone, Debug)]
pub(crate) struct VolumeOp {
    pub(crate) ask: VolumeAsk,
    pub(crate) answer: Option<VolumeAnswer>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum VolumeAsk {
    Lock { session: SessionId },
    Relock { session: SessionId, epoch: Epoch },
    Unlock { epoch: Epoch },
    Reserve { epoch: Epoch, count: u64 },
    Close { session: SessionId },
    Read,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum VolumeAnswer {
    Done,
    Granted { epoch: Epoch },
    First { inode: u64 },
    Found(VolumeState),
    InUse,
    NoSuchSession,
    Stale { current: Epoch },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VolumeState {
    pub(crate) epoch: Epoch,
    pub(crate) holder: Option<SessionId>,
    /// The last INode index that was reserved.
    pub(crate) reserved: u64,
}

/// A volume's lock and its counter. A session may end by itself, once it was last heard of.
pub(crate) struct VolumeModel {
    /// Of each session, the number of the event since which nobody knows that it lives.
    pub(crate) heard: BTreeMap<SessionId, u64>,
    pub(crate) inode: u64,
}

impl VolumeModel {
    /// Whether the session may have ended when this call took effect.
    fn may_have_ended(&self, session: SessionId, call: &Call<VolumeOp>) -> bool {
        let heard = self.heard.get(&session).copied().unwrap_or(0);
        call.end.is_none_or(|end| end > heard)
    }
}

impl Model for VolumeModel {
    type State = VolumeState;
    type Op = VolumeOp;

    fn initial(&self) -> VolumeState {
        VolumeState { epoch: Epoch(0), holder: None, reserved: self.inode }
    }

    fn step(&self, state: &VolumeState, call: &Call<VolumeOp>) -> Vec<VolumeState> {
        let mut before = vec![*state];
        if state.holder.is_some_and(|holder| self.may_have_ended(holder, call)) {
            before.push(VolumeState { holder: None, ..*state });
        }
        before.into_iter().filter_map(|state| step(state, &call.op)).collect()
    }
}

fn step(state: VolumeState, op: &VolumeOp) -> Option<VolumeState> {
    use VolumeAnswer as Answer;
    let free_for = |session| state.holder.is_none_or(|holder| holder == session);
    let stale = |epoch| epoch != state.epoch;
    match (op.ask, op.answer) {
        (VolumeAsk::Read, Some(Answer::Found(found))) => (found == state).then_some(state),
        // Nothing is known of such a session, but that it does not hold the lock.
        (_, Some(Answer::NoSuchSession)) => Some(state),
        (_, Some(Answer::Stale { current })) => (current == state.epoch).then_some(state),
        (VolumeAsk::Lock { session }, answer) => {
            let epoch = Epoch(state.epoch.0 + 1);
            let granted = VolumeState { epoch, holder: Some(session), ..state };
            match answer {
                Some(Answer::InUse) => (!free_for(session)).then_some(state),
                Some(Answer::Granted { epoch: found }) => {
                    (free_for(session) && found == epoch).then_some(granted)
                }
                None => free_for(session).then_some(granted),
                _ => None,
            }
        }
        (VolumeAsk::Relock { session, epoch }, answer) => {
            let held = VolumeState { holder: Some(session), ..state };
            match answer {
                Some(Answer::InUse) => (!stale(epoch) && !free_for(session)).then_some(state),
                Some(Answer::Done) | None => (!stale(epoch) && free_for(session)).then_some(held),
                _ => None,
            }
        }
        (VolumeAsk::Unlock { epoch }, Some(Answer::Done) | None) => {
            (!stale(epoch)).then_some(VolumeState { holder: None, ..state })
        }
        (VolumeAsk::Reserve { epoch, count }, answer) => {
            let right = match answer {
                Some(Answer::First { inode }) => inode == state.reserved + 1,
                None => true,
                Some(_) => false,
            };
            let reserved = state.reserved + count;
            (right && !stale(epoch)).then_some(VolumeState { reserved, ..state })
        }
        (VolumeAsk::Close { session }, Some(Answer::Done) | None) => {
            let held = state.holder == Some(session);
            Some(if held { VolumeState { holder: None, ..state } } else { state })
        }
        _ => None,
    }
}
