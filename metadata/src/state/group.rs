//! The Raft group: who is in it, as the log says, and how many may vote.

use super::{Change, State};
use crate::{Event, Group, GroupPlace, Refusal};

/// More voters would make every decision slower, and no group safer.
const VOTERS_LIMIT: u32 = 9;

impl State {
    pub(super) fn set_voters_max(&mut self, voters_max: u32) -> Result<Change, Refusal> {
        validate_voters_max(voters_max)?;
        if voters_max == self.group.voters_max {
            return Change::nothing();
        }
        self.group.voters_max = voters_max;
        Change::done(vec![Event::GroupChanged(self.group.clone())])
    }

    /// Notes what a membership entry of the log says; the event, if that is new.
    pub(crate) fn regroup(&mut self, members: Vec<GroupPlace>, joint: bool) -> Option<Event> {
        let group = Group { members, joint, ..self.group };
        if group == self.group {
            return None;
        }
        self.revision = self.next_revision();
        self.group = group.clone();
        Some(Event::GroupChanged(group))
    }
}

/// Whether so many members may vote.
pub(crate) fn validate_voters_max(voters_max: u32) -> Result<(), Refusal> {
    if voters_max.is_multiple_of(2) || voters_max > VOTERS_LIMIT {
        return Err(Refusal::VOTERS_MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, Command, NodeId, Query};

    fn place(node: u64, votes: bool) -> GroupPlace {
        GroupPlace { node: NodeId(node), address: format!("a:{node}"), votes }
    }

    #[test]
    fn the_group_is_what_the_log_said_last() {
        let mut state = State::default();
        assert!(state.regroup(vec![place(1, true)], false).is_some());
        assert_eq!(state.regroup(vec![place(1, true)], false), None);
        let before = state.revision();
        let members = vec![place(1, true), place(2, false)];
        assert!(state.regroup(members.clone(), true).is_some());
        assert_eq!(state.revision().0, before.0 + 1);
        let Answer::Group { group, .. } = state.answer(&Query::Group) else { panic!() };
        assert_eq!(group, Group { voters_max: 5, members, joint: true });
    }

    #[test]
    fn voters_are_an_odd_number() {
        let mut state = State::default();
        for bad in [0, 2, 10, 11] {
            let refused = state.apply(1, Command::SetVotersMax(bad)).0;
            assert_eq!(refused, Err(Refusal::VOTERS_MAX));
        }
        let (_, events) = state.apply(2, Command::SetVotersMax(3));
        assert_eq!(events.len(), 1);
        let (_, events) = state.apply(3, Command::SetVotersMax(3));
        assert_eq!(events, []);
        assert_eq!(state.revision().0, 1);
    }
}
