//! `torusctl member`: the Raft group.

mod group;

use serde_json::json;
use torus_metadata::{Command, NodeId};

use super::arguments::{MemberCommand, MemberName};
use super::cluster::Cluster;
use super::report::Report;
use super::status::on_group;
use crate::failure::Failure;

pub(super) use group::{Group, Row, read, rows};

#[cfg(test)]
pub(super) use group::tests;

pub(super) async fn run(cluster: &Cluster, command: &MemberCommand) -> Result<Report, Failure> {
    match command {
        MemberCommand::List => Ok(list(&read(cluster).await?)),
        MemberCommand::Status => Ok(status(&read(cluster).await?)),
        MemberCommand::Add { address } => {
            let place = cluster.administer(cluster.admin.invite(address.as_str())).await?;
            let text = format!(
                "The daemon at {address} is member {} now.\nNext: torusctl peer add {address}\n",
                place.node
            );
            Ok(Report::new(text, json!({ "id": place.node.0, "address": address.as_str() })))
        }
        MemberCommand::Promote { member, instead_of } => {
            let id = resolve(cluster, member).await?;
            let other = match instead_of {
                Some(other) => Some(resolve(cluster, other).await?),
                None => None,
            };
            cluster.administer(cluster.admin.promote(id, other)).await?;
            Ok(Report::new(format!("Member {id} votes.\n"), json!({ "id": id.0 })))
        }
        MemberCommand::Voters { number } => {
            cluster.execute(Command::SetVotersMax(*number)).await?;
            let text = format!("Up to {number} members vote; the group is changed by and by.\n");
            Ok(Report::new(text, json!({ "voters_max": number })))
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

fn list(group: &Group) -> Report {
    Report::new(rows(group), json!(group))
}

fn status(group: &Group) -> Report {
    let advice = on_group(group);
    let mut text = format!("{}\n{}", group.head(), rows(group));
    if !advice.is_empty() {
        text.push_str("\nTo do:\n");
        text.extend(advice.iter().map(|line| format!("- {line}\n")));
    }
    let mut json = json!(group);
    json["problems"] = advice.into();
    Report::new(text, json)
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
