//! What is known of the Raft group, put together: the word of the member that knows most, and what
//! each says of itself.

use serde::Serialize;
use torus_metadata::{GroupMember, GroupRole, GroupStatus};

use crate::ctl::cluster::{Cluster, Standing, standings};
use crate::ctl::report::{count, table};
use crate::failure::Failure;

/// The group.
#[derive(Debug, Serialize)]
pub(in crate::ctl) struct Group {
    pub(in crate::ctl) cluster: String,
    /// How often the group was founded: anew from a backup, or from what one member had left.
    pub(in crate::ctl) generation: u64,
    /// Which commands may be used.
    pub(in crate::ctl) feature_level: u32,
    pub(in crate::ctl) term: u64,
    /// Address of the member that leads and answers.
    pub(in crate::ctl) leader: Option<String>,
    /// By the leader, or else by the member that knows most: up to where the log is committed, and
    /// applied.
    pub(in crate::ctl) committed: u64,
    pub(in crate::ctl) applied: u64,
    /// The newest change of the metadata that it has applied.
    pub(in crate::ctl) revision: u64,
    pub(in crate::ctl) sessions: u64,
    /// Milliseconds since a majority last answered the leader, by its own word.
    pub(in crate::ctl) quorum_acked_ms: Option<u64>,
    /// How many members vote at most.
    pub(in crate::ctl) voters_max: u32,
    /// A change of the voters has begun and not ended.
    pub(in crate::ctl) joint: bool,
    pub(in crate::ctl) members: Vec<Row>,
}

/// One member.
#[derive(Debug, Serialize)]
pub(in crate::ctl) struct Row {
    pub(in crate::ctl) id: u64,
    pub(in crate::ctl) address: String,
    /// `leader`, `voter` or `learner`.
    pub(in crate::ctl) role: &'static str,
    /// `up`, `down`, or who listens at its address instead: `other cluster`, `other member`,
    /// `no member` (a daemon that waits).
    pub(in crate::ctl) state: &'static str,
    /// Log entries that it is behind the leader, which alone knows.
    pub(in crate::ctl) lag: Option<u64>,
    /// Up to where it has applied the log, by its own word.
    pub(in crate::ctl) applied: Option<u64>,
    /// Milliseconds since it wrote its snapshot, if it has one.
    pub(in crate::ctl) snapshot_age_ms: Option<u64>,
    /// Log entries behind that snapshot.
    pub(in crate::ctl) unsaved: Option<u64>,
    /// Its disk has no room for commands.
    pub(in crate::ctl) is_full: bool,
    /// Which commands its version knows.
    pub(in crate::ctl) feature_level: Option<u32>,
}

/// Reads the group and asks its members.
pub(in crate::ctl) async fn read(cluster: &Cluster) -> Result<Group, Failure> {
    let status = cluster.administer(cluster.admin.status()).await?;
    let addresses: Vec<_> = status.members.iter().map(|member| member.address.clone()).collect();
    let said = standings(&addresses).await;
    Ok(survey(&status, &said))
}

/// What is known of the group; `said` is what is heard at the address of each member.
fn survey(status: &GroupStatus, said: &[Standing]) -> Group {
    let members: Vec<Row> =
        status.members.iter().zip(said).map(|(member, said)| row(status, member, said)).collect();
    let leader = members.iter().find(|row| row.role == "leader");
    // Who knows most: the leader, if one answers.
    let own = |(_, said): (&GroupMember, &Standing)| match said {
        Standing::Member(own) if own.cluster == status.cluster => Some(own.clone()),
        _ => None,
    };
    let by_leader = |own: &GroupStatus| leader.is_some_and(|leader| leader.id == own.node.0);
    let all = status.members.iter().zip(said).filter_map(own).chain([status.clone()]);
    let best = all.max_by_key(|own| (by_leader(own), own.applied));
    let best = best.as_ref().unwrap_or(status);
    Group {
        cluster: status.cluster.to_string(),
        generation: best.generation,
        feature_level: best.level.0,
        term: best.term,
        leader: leader.map(|row| row.address.clone()),
        committed: best.committed,
        applied: best.applied,
        revision: best.revision.0,
        sessions: best.sessions,
        quorum_acked_ms: leader.and(best.quorum_acked_ms),
        voters_max: best.voters_max,
        joint: status.joint,
        members,
    }
}

fn row(status: &GroupStatus, member: &GroupMember, said: &Standing) -> Row {
    let own = match said {
        Standing::Member(own) => Some(own),
        Standing::Waits | Standing::Silent => None,
    };
    let state = match said {
        Standing::Silent => "down",
        Standing::Waits => "no member",
        Standing::Member(own) if own.cluster != status.cluster => "other cluster",
        Standing::Member(own) if own.node != member.node => "other member",
        Standing::Member(_) => "up",
    };
    let own = own.filter(|_| state == "up");
    Row {
        id: member.node.0,
        address: member.address.clone(),
        role: match member.role {
            // Who does not answer leads nobody, whatever another has last heard.
            GroupRole::Voter if member.leader && state == "up" => "leader",
            GroupRole::Voter => "voter",
            GroupRole::Learner => "learner",
        },
        state,
        lag: member.matched.map(|matched| status.last_log.saturating_sub(matched)),
        applied: own.map(|own| own.applied),
        snapshot_age_ms: own.and_then(|own| own.snapshot_age_ms),
        unsaved: own.map(|own| own.applied.saturating_sub(own.snapshot)),
        is_full: own.is_some_and(|own| own.is_full),
        feature_level: own.map(|own| own.known_level.0),
    }
}

impl Group {
    /// How many vote, how many of them answer, and how many must.
    pub(in crate::ctl) fn votes(&self) -> (usize, usize, usize) {
        let voters = self.members.iter().filter(|row| row.role != "learner");
        let up = voters.clone().filter(|row| row.state == "up").count();
        let voters = voters.count();
        (voters, up, voters / 2 + 1)
    }

    /// Its lines at the head of a screen.
    pub(in crate::ctl) fn head(&self) -> String {
        let up = self.members.iter().filter(|row| row.state == "up").count();
        let (voters, voters_up, needed) = self.votes();
        let health = match voters_up.checked_sub(needed) {
            None => "no majority".to_owned(),
            Some(0) => "none may fail".to_owned(),
            Some(spare) => format!("{spare} may fail"),
        };
        let heard = match self.quorum_acked_ms {
            Some(ms) => format!(", heard {} ago", age(ms)),
            None => String::new(),
        };
        let change = if self.joint { ", a change is under way" } else { "" };
        let snapshot = self.leading().and_then(|row| row.snapshot_age_ms);
        let snapshot = snapshot.map_or_else(|| "none".to_owned(), |ms| format!("{} old", age(ms)));
        format!(
            "Cluster   {}, generation {}, feature level {}\n\
             Leader    {}\n\
             Members   {up} of {} up, term {}\n\
             Quorum    {}, {needed} needed, {voters_up} up: {health}{heard}{change}\n\
             Log       committed {}, applied {}, snapshot {snapshot}\n\
             Sessions  {}\n",
            self.cluster,
            self.generation,
            self.feature_level,
            self.leader.as_deref().unwrap_or("none"),
            self.members.len(),
            self.term,
            count(voters, "voter"),
            self.committed,
            self.applied,
            self.sessions,
        )
    }

    /// The member that leads.
    pub(in crate::ctl) fn leading(&self) -> Option<&Row> {
        self.members.iter().find(|row| row.role == "leader")
    }
}

/// The table of the members.
pub(in crate::ctl) fn rows(group: &Group) -> String {
    let number = |it: Option<u64>| it.map_or_else(|| "?".to_owned(), |it| it.to_string());
    table(
        &[">ID", "ADDRESS", "ROLE", "STATE", ">LAG", ">APPLIED", ">SNAPSHOT"],
        group.members.iter().map(|row| {
            let snapshot = match (row.snapshot_age_ms, row.applied) {
                (Some(ms), _) => age(ms),
                (None, Some(_)) => "none".to_owned(),
                (None, None) => "?".to_owned(),
            };
            vec![
                row.id.to_string(),
                row.address.clone(),
                row.role.to_owned(),
                row.state.to_owned(),
                number(row.lag),
                number(row.applied),
                snapshot,
            ]
        }),
    )
}

/// A time for people: `340 ms`, `12 s`, `5 min`, `3 h`, `4 d`.
fn age(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(24 * 3_600_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    match UNITS.into_iter().find(|(unit, _)| ms >= *unit) {
        Some((unit, name)) => format!("{} {name}", ms / unit),
        None => format!("{ms} ms"),
    }
}

#[cfg(test)]
pub(in crate::ctl) mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;
    use torus_metadata::{FeatureLevel, NodeId, Revision};
    use uuid::Uuid;

    /// Members 1 to 3, of which 1 leads and answers; 3 is a learner that is behind.
    pub(in crate::ctl) fn example(up: &[bool]) -> Group {
        let status = status();
        let said = |(&up, node): (&bool, u64)| match up {
            true => Standing::Member(GroupStatus { node: NodeId(node), ..status.clone() }),
            false => Standing::Silent,
        };
        survey(&status, &up.iter().zip(1..).map(said).collect::<Vec<_>>())
    }

    fn status() -> GroupStatus {
        let member = |node: u64, role, matched| GroupMember {
            node: NodeId(node),
            address: format!("127.0.0.1:4000{}", node - 1),
            role,
            leader: node == 1,
            matched,
        };
        let members = vec![
            member(1, GroupRole::Voter, Some(120)),
            member(2, GroupRole::Voter, Some(119)),
            member(3, GroupRole::Learner, None),
        ];
        GroupStatus {
            cluster: Uuid::from_u128(7),
            node: NodeId(1),
            term: 2,
            last_log: 120,
            applied: 120,
            committed: 120,
            quorum_acked_ms: Some(40),
            snapshot: 100,
            snapshot_age_ms: Some(65_000),
            is_full: false,
            revision: Revision(9),
            sessions: 4,
            members,
            joint: false,
            voters_max: 5,
            generation: 1,
            level: FeatureLevel::OWN,
            known_level: FeatureLevel::OWN,
        }
    }

    #[test]
    fn members_are_listed() {
        expect![[r#"
            ID  ADDRESS          ROLE     STATE  LAG  APPLIED  SNAPSHOT
             1  127.0.0.1:40000  leader   up       0      120     1 min
             2  127.0.0.1:40001  voter    up       1      120     1 min
             3  127.0.0.1:40002  learner  down     ?        ?         ?
        "#]]
        .assert_eq(&rows(&example(&[true, true, false])));
    }

    #[test]
    fn a_leader_that_does_not_answer_leads_nobody() {
        let group = example(&[false, true, true]);
        assert_eq!((group.leader.as_deref(), group.members[0].role), (None, "voter"));
        expect![[r#"
            {
              "applied": 120,
              "cluster": "00000000-0000-0000-0000-000000000007",
              "committed": 120,
              "feature_level": 2,
              "generation": 1,
              "joint": false,
              "leader": null,
              "members": [
                {
                  "address": "127.0.0.1:40000",
                  "applied": null,
                  "feature_level": null,
                  "id": 1,
                  "is_full": false,
                  "lag": 0,
                  "role": "voter",
                  "snapshot_age_ms": null,
                  "state": "down",
                  "unsaved": null
                },
                {
                  "address": "127.0.0.1:40001",
                  "applied": 120,
                  "feature_level": 2,
                  "id": 2,
                  "is_full": false,
                  "lag": 1,
                  "role": "voter",
                  "snapshot_age_ms": 65000,
                  "state": "up",
                  "unsaved": 20
                },
                {
                  "address": "127.0.0.1:40002",
                  "applied": 120,
                  "feature_level": 2,
                  "id": 3,
                  "is_full": false,
                  "lag": null,
                  "role": "learner",
                  "snapshot_age_ms": 65000,
                  "state": "up",
                  "unsaved": 20
                }
              ],
              "quorum_acked_ms": null,
              "revision": 9,
              "sessions": 4,
              "term": 2,
              "voters_max": 5
            }"#]]
        .assert_eq(&format!("{:#}", json!(group)));
    }

    #[test]
    fn whoever_listens_at_a_members_address_is_told_apart() {
        let status = status();
        let elsewhere = GroupStatus { cluster: Uuid::from_u128(8), ..status.clone() };
        let another = GroupStatus { node: NodeId(9), ..status.clone() };
        let said = [Standing::Member(elsewhere), Standing::Member(another), Standing::Waits];
        let group = survey(&status, &said);
        let states: Vec<_> = group.members.iter().map(|row| row.state).collect();
        assert_eq!(states, ["other cluster", "other member", "no member"]);
        assert_eq!(group.leader, None);
    }

    #[test]
    fn times_have_one_unit() {
        let ages = [0, 999, 1000, 59_999, 60_000, 7_200_000, 200_000_000].map(age);
        assert_eq!(ages, ["0 ms", "999 ms", "1 s", "59 s", "1 min", "2 h", "2 d"]);
    }
}
