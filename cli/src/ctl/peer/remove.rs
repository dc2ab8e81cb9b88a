//! `torusctl peer remove` and `forget`: out of the ring, and out of mind.

use serde_json::json;
use torus_blockstore::PeerId;
use torus_metadata::{Command, Ring};

use super::{Known, text};
use crate::ctl::arguments::PeerName;
use crate::ctl::cluster::{Cluster, Statuses, statuses};
use crate::ctl::report::{Report, count};
use crate::ctl::ring::{facts, summary, without_peers};
use crate::failure::Failure;

/// Takes peers out of the ring.
pub(super) async fn run(
    cluster: &Cluster,
    names: &[PeerName],
    force: bool,
) -> Result<Report, Failure> {
    let known = Known::read(cluster).await?;
    let ids = names.iter().map(|name| resolve(&known, name)).collect::<Result<Vec<_>, _>>()?;
    if !force {
        let statuses = statuses(&known.global, &known.peers).await;
        check(&known.ring, &ids, &statuses)?;
    }
    let ring = cluster
        .change_ring(|ring| {
            // After a lost race: whoever is out already is out.
            let is_in = |id: &PeerId| ring.members.iter().any(|member| member.peer == *id);
            Ok(ids.iter().any(is_in).then(|| without_peers(ring, &ids)))
        })
        .await?;
    let left = ring.members.len();
    let copies = usize::try_from(ring.replication).unwrap_or(usize::MAX);
    let mut text =
        format!("Removed {} from the ring. {}\n", count(ids.len(), "peer"), summary(&ring));
    if left < copies {
        text.push_str(&format!("Each block has {} now: add peers.\n", copies_of(left)));
    } else {
        text.push_str(
            "Keep the daemon running until 'torusctl peer list' shows no blocks to move.\n",
        );
    }
    let uuids: Vec<_> = ids.iter().map(PeerId::to_string).collect();
    let json = json!({ "removed": uuids, "ring": facts(&ring, &known.peers) });
    Ok(Report::new(text, json))
}

fn copies_of(peers: usize) -> String {
    match peers {
        0 => "no place".to_owned(),
        1 => "only one copy".to_owned(),
        copies => format!("only {copies} copies"),
    }
}

/// A member of the ring, which need not be registered any more.
fn resolve(known: &Known, name: &PeerName) -> Result<PeerId, Failure> {
    let is_in = |id: PeerId| known.ring.members.iter().any(|member| member.peer == id);
    if let PeerName::Id(id) = name
        && is_in(*id)
    {
        return Ok(*id);
    }
    // Of several peers that had an address, one in the ring is meant.
    let mut members = known.named(name);
    members.retain(|peer| is_in(peer.id));
    if let [peer] = members[..] {
        return Ok(peer.id);
    }
    known.one(name)?;
    Err(Failure::failed(format!(
        "peer {} is not in the ring; 'torusctl ring get' shows who is",
        text(name)
    )))
}

/// What is better not done by accident.
fn check(ring: &Ring, ids: &[PeerId], statuses: &Statuses) -> Result<(), Failure> {
    let silent = ids.iter().find(|id| !matches!(statuses.get(id), Some(Ok(_))));
    if let Some(id) = silent {
        return Err(Failure::failed(format!(
            "peer {id} does not answer, so blocks of which it has the only copy would be lost; \
             start it, or give --force"
        )));
    }
    if without_peers(ring, ids).members.is_empty() {
        return Err(Failure::failed(
            "the ring would have no peer left and nothing could be written; add another peer \
             first, or give --force",
        ));
    }
    Ok(())
}

/// Forgets a peer that is neither in the ring nor running.
pub(super) async fn forget(cluster: &Cluster, name: &PeerName) -> Result<Report, Failure> {
    let known = Known::read(cluster).await?;
    let peer = known.one(name)?;
    let statuses = statuses(&known.global, std::slice::from_ref(peer)).await;
    if matches!(statuses.get(&peer.id), Some(Ok(_))) {
        return Err(Failure::failed(format!(
            "peer {} is running and would come back; stop it first",
            text(name)
        )));
    }
    cluster.execute(Command::RemovePeer(peer.id)).await?;
    let text = format!("Peer {} ({}) is forgotten.\n", peer.address, peer.id);
    Ok(Report::new(text, json!({ "forgotten": peer.id.to_string() })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::peer::survey::tests::{ring, up};
    use crate::ctl::peer::tests::{global, peer};
    use expect_test::{Expect, expect};

    /// Peers 1 to 3 are registered, 1, 2 and 9 are in the ring, and 1 and 3 answer.
    #[track_caller]
    fn check_of(names: &[&str], expected: Expect) {
        let peers = vec![peer(1), peer(2), peer(3)];
        let known = Known { global: global(), ring: ring(&[1, 2, 9]), peers };
        let ids = names.iter().map(|name| resolve(&known, &name.parse().unwrap()));
        let found = ids
            .collect::<Result<Vec<_>, _>>()
            .and_then(|ids| check(&known.ring, &ids, &up(&[1, 3])).map(|()| ids));
        let found = found.map_or_else(|failure| failure.line(), |ids| format!("{ids:?}"));
        expected.assert_eq(&found);
    }

    #[test]
    fn only_members_of_the_ring_can_go() {
        check_of(&["127.0.0.1:40001"], expect!["[PeerId(00000000-0000-0000-0000-000000000001)]"]);
        check_of(
            &["127.0.0.1:40003"],
            expect!["peer 127.0.0.1:40003 is not in the ring; 'torusctl ring get' shows who is"],
        );
        check_of(
            &["127.0.0.1:40007"],
            expect!["no peer 127.0.0.1:40007 is registered; 'torusctl peer list' shows the peers"],
        );
    }

    #[test]
    fn who_does_not_answer_goes_by_force_alone() {
        check_of(
            &["00000000-0000-0000-0000-000000000009"],
            expect![
                "peer 00000000-0000-0000-0000-000000000009 does not answer, so blocks of which it has the only copy would be lost; start it, or give --force"
            ],
        );
    }

    #[test]
    fn the_last_peer_goes_by_force_alone() {
        let failure = check(&ring(&[1]), &[peer(1).id], &up(&[1])).unwrap_err();
        expect!["the ring would have no peer left and nothing could be written; add another peer first, or give --force"]
            .assert_eq(&failure.line());
    }
}
