//! What every member of the group keeps: the state, and beside it what makes the log safe to use:
//! the answers to remember for repeated requests, and the tenure of the leader that may end
//! sessions.
//!
//! Pure, as the state is. The history of events, which watches read, is each member's own.

use std::collections::VecDeque;

use crate::dedupe::Answered;
use crate::history::History;
use crate::planted::{Planted, is_planted};
use crate::{
    Applied, Command, Event, FeatureLevel, GroupPlace, Outcome, Response, Revision, SessionId,
    State,
};

/// Identifies one request of one client: a client gives each new request a higher sequence, and
/// the same to a repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId {
    pub(crate) client: u128,
    pub(crate) sequence: u64,
}

/// A leader's right to end sessions: a random number that it drew. A new leader takes its own
/// before it answers keep-alives, and with that no expiry of an earlier one takes effect any more.
/// (The term would not do: a term may have several leaders, one after the other.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tenure(pub(crate) u64);

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proposal {
    Command {
        request: RequestId,
        command: Command,
    },
    /// A new leader has begun to listen to sessions.
    BeginTenure(Tenure),
    /// Ends sessions, if `tenure` is still the newest.
    Expire {
        tenure: Tenure,
        sessions: Vec<SessionId>,
    },
    /// All members know the commands of this level.
    RaiseLevel(FeatureLevel),
}

/// The replicated state machine of one member.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) state: State,
    pub(crate) answered: Answered,
    pub(crate) tenure: Tenure,
    history: History,
}

impl Machine {
    /// A machine as a snapshot had it; what was changed before is no longer known.
    pub(crate) fn restored(state: State, answered: Answered, tenure: Tenure) -> Self {
        let history = History::starting_at(state.revision());
        Self { state, answered, tenure, history }
    }

    /// The same, as another group goes on with it at `now_ms`, in milliseconds since 1970.
    pub(crate) fn reborn(mut self, now_ms: u64) -> Self {
        self.state.begin_generation(now_ms);
        Self::restored(self.state, self.answered, self.tenure)
    }

    /// Applies the log entry at `index`.
    pub(crate) fn apply(&mut self, index: u64, proposal: Proposal) -> Response {
        match proposal {
            Proposal::Command { request, command } => {
                if let Some(response) = self.answered.recall(index, request)
                    && !is_planted(Planted::AppliedTwice)
                {
                    return response;
                }
                let response = self.change(index, command);
                self.answered.remember(index, request, response.clone());
                response
            }
            Proposal::BeginTenure(tenure) => {
                self.tenure = tenure;
                self.done()
            }
            Proposal::Expire { tenure, sessions } if tenure == self.tenure => {
                self.change(index, Command::ExpireSessions(sessions))
            }
            Proposal::Expire { .. } => self.done(),
            Proposal::RaiseLevel(level) => {
                self.state.level = self.state.level.max(level);
                self.done()
            }
        }
    }

    /// Applies a command that nobody repeats.
    pub(crate) fn change(&mut self, index: u64, command: Command) -> Response {
        let before = self.state.revision();
        let (response, events) = self.state.apply(index, command);
        if self.state.revision() > before {
            self.history.push(self.state.revision(), events);
        }
        response
    }

    /// Takes over what a membership entry of the log says.
    pub(crate) fn regroup(&mut self, members: Vec<GroupPlace>, joint: bool) {
        if let Some(event) = self.state.regroup(members, joint) {
            self.history.push(self.state.revision(), vec![event]);
        }
    }

    /// What changed after `from`, oldest first, no more than `limit` revisions. `None`: it is no
    /// longer known.
    pub(crate) fn events_after(
        &self,
        from: Revision,
        limit: usize,
    ) -> Option<VecDeque<(Revision, Vec<Event>)>> {
        self.history.after(from, limit)
    }

    /// The changes up to this revision are no longer known.
    pub(crate) fn compacted(&self) -> Revision {
        self.history.compacted()
    }

    fn done(&self) -> Response {
        Ok(Applied { revision: self.state.revision(), outcome: Outcome::Done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Refusal, Session};

    fn open_session() -> Command {
        Command::OpenSession { owner: "host".to_owned(), ttl_ms: 1000 }
    }

    fn initialised() -> Machine {
        let mut machine = Machine::default();
        machine.change(1, crate::fixtures::init()).unwrap();
        machine
    }

    fn request(machine: &mut Machine, index: u64, sequence: u64) -> Response {
        let request = RequestId { client: 7, sequence };
        machine.apply(index, Proposal::Command { request, command: open_session() })
    }

    #[test]
    fn a_repeated_request_is_applied_once() {
        let mut machine = initialised();
        let first = request(&mut machine, 2, 1);
        assert_eq!(request(&mut machine, 3, 1), first);
        assert_eq!(machine.state.sessions().count(), 1);
        assert_ne!(request(&mut machine, 4, 2), first);
        // An echo of the first comes when the client has long gone on.
        assert_eq!(request(&mut machine, 5, 1), Err(Refusal::Superseded));
        assert_eq!(machine.state.sessions().count(), 2);
    }

    #[test]
    fn only_the_newest_tenure_ends_sessions() {
        let mut machine = initialised();
        machine.apply(2, Proposal::BeginTenure(Tenure(70))).unwrap();
        request(&mut machine, 3, 1).unwrap();
        let sessions: Vec<_> = machine.state.sessions().map(|Session { id, .. }| *id).collect();
        machine.apply(4, Proposal::BeginTenure(Tenure(30))).unwrap();
        let expire =
            |tenure| Proposal::Expire { tenure: Tenure(tenure), sessions: sessions.clone() };
        machine.apply(5, expire(70)).unwrap();
        assert_eq!(machine.state.sessions().count(), 1);
        machine.apply(6, expire(30)).unwrap();
        assert_eq!(machine.state.sessions().count(), 0);
    }
}
