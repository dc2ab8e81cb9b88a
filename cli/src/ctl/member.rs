//! `torusctl member`: the Raft group.

use serde::Serialize;
use serde_json::json;
use torus_metadata::{GroupRole, GroupStatus, NodeId};

use super::arguments::{MemberCommand, MemberName};
use super::cluster::{Cluster, answering};
use super::report::{Report, table};
use crate::failure::Failure;

/// The group, each member asked whether it answers.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    pub(super) cluster: String,
    pub(super) term: u64,
    /// Address of the member that leads and answers.
    pub(super) leader: Option<String>,
    pub(super) members: Vec<Row>,
}

/// One member.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) id: u64,
    pub(super) address: String,
    /// `leader`, `voter` or `learner`.
    pub(super) role: &'static str,
    /// `up` or `down`.
    pub(super) state: &'static str,
    /// Log entries that it is behind the leader, which alone knows.
    pub(super) lag: Option<u64>,
}

pub(super) async fn run(cluster: &Cluster, command: &MemberCommand) -> Result<Report, Failure> {
    match command {
        MemberCommand::List => Ok(list(&read(cluster).await?)),
        MemberCommand::Add { address } => {
            let place = cluster.administer(cluster.admin.invite(address.as_str())).await?;
            let text = format!(
                "The daemon at {address} is member {} now.\nNext: torusctl peer add {address}\n",
                place.node
            );
            Ok(Report::new(text, json!({ "id": place.node.0, "address": address.as_str() })))
        }
        MemberCommand::Remove { member } => {
            let id = resolve(cluster, member).await?;
            cluster.administer(cluster.admin.remove_member(id)).await?;
            let text = format!("Member {id} is out of the group. Stop its daemon if it runs.\n");
            Ok(Report::new(text, json!({ "id": id.0 })))
        }
        MemberCommand::TransferLeader { member } => {
            let to = match member {
                Some(member) => Some(resolve(cluster, member).await?),
                None => None,
            };
            let leader = cluster.administer(cluster.admin.transfer_leader(to)).await?.node;
            let text = format!("Member {leader} leads.\n");
            Ok(Report::new(text, json!({ "leader": leader.0 })))
        }
    }
}

/// Reads the group and asks its members.
pub(super) async fn read(cluster: &Cluster) -> Result<Group, Failure> {
    let status = cluster.administer(cluster.admin.status()).await?;
    let addresses: Vec<_> = status.members.iter().map(|member| member.address.clone()).collect();
    let up = answering(&addresses).await;
    Ok(survey(&status, &up))
}

/// What is known of the group; `up` says of each member whether it answers.
fn survey(status: &GroupStatus, up: &[bool]) -> Group {
    let row = |(member, &up): (&torus_metadata::GroupMember, &bool)| Row {
        id: member.node.0,
        address: member.address.clone(),
        role: match member.role {
            // Who does not answer leads nobody, whatever another has last heard.
            GroupRole::Voter if member.leader && up => "leader",
            GroupRole::Voter => "voter",
            GroupRole::Learner => "learner",
        },
        state: if up { "up" } else { "down" },
        lag: member.matched.map(|matched| status.last_log.saturating_sub(matched)),
    };
    let members: Vec<Row> = status.members.iter().zip(up).map(row).collect();
    let leader = members.iter().find(|row| row.role == "leader");
    Group {
        cluster: status.cluster.to_string(),
        term: status.term,
        leader: leader.map(|row| row.address.clone()),
        members,
    }
}

fn list(group: &Group) -> Report {
    Report::new(rows(group), json!(group))
}

/// The table of the members.
pub(super) fn rows(group: &Group) -> String {
    table(
        &[">ID", "ADDRESS", "ROLE", "STATE", ">LAG"],
        group.members.iter().map(|row| {
            vec![
                row.id.to_string(),
                row.address.clone(),
                row.role.to_owned(),
                row.state.to_owned(),
                row.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
            ]
        }),
    )
}

async fn resolve(cluster: &Cluster, name: &MemberName) -> Result<NodeId, Failure> {
    let address = match name {
        MemberName::Id(id) => return Ok(*id),
        MemberName::Address(address) => address,
    };
    let status = cluster.administer(cluster.admin.status()).await?;
    let member = status.members.iter().find(|member| member.address == address.as_str());
    member.map(|member| member.node).ok_or_else(|| {
        Failure::failed(format!(
            "there is no member at {address}; 'torusctl member list' shows the members"
        ))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use expect_test::expect;
    use torus_metadata::{FeatureLevel, GroupMember, Revision};
    use uuid::Uuid;

    /// Members 1 to 3, of which 1 leads and answers; 3 is a learner that is behind.
    pub(in crate::ctl) fn example(up: &[bool]) -> Group {
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
        let status = GroupStatus {
            cluster: Uuid::from_u128(7),
            node: NodeId(1),
            term: 2,
            last_log: 120,
            applied: 120,
            snapshot: 0,
            revision: Revision(9),
            sessions: 0,
            members,
            joint: false,
            generation: 1,
            level: FeatureLevel(2),
            known_level: FeatureLevel(2),
        };
        survey(&status, up)
    }

    #[test]
    fn members_are_listed() {
        expect![[r#"
            ID  ADDRESS          ROLE     STATE  LAG
             1  127.0.0.1:40000  leader   up       0
             2  127.0.0.1:40001  voter    up       1
             3  127.0.0.1:40002  learner  down     ?
        "#]]
        .assert_eq(&rows(&example(&[true, true, false])));
    }

    #[test]
    fn a_leader_that_does_not_answer_leads_nobody() {
        let group = example(&[false, true, true]);
        assert_eq!((group.leader.as_deref(), group.members[0].role), (None, "voter"));
        expect![[r#"
            {
              "address": "127.0.0.1:40000",
              "id": 1,
              "lag": 0,
              "role": "voter",
              "state": "down"
            }"#]]
        .assert_eq(&format!("{:#}", json!(group)["members"][0]));
    }
}
