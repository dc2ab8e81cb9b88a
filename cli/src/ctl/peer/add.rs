//! `torusctl peer add`: waits for the peers to be there, then changes the ring.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use torus_distributor::PeerError;
use torus_metadata::{Peer, Ring};

use super::{Known, text};
use crate::ctl::arguments::PeerName;
use crate::ctl::cluster::{Cluster, Statuses, statuses};
use crate::ctl::report::{Report, count};
use crate::ctl::ring::{facts, summary, with_peers};
use crate::failure::Failure;

/// How long daemons that were just started may take to register and to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long those that are registered may take to answer while others do.
const SILENT_PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// Adds the peers of these names, each of which must answer and not be in the ring.
pub(super) async fn named(cluster: &Cluster, names: &[PeerName]) -> Result<Report, Failure> {
    let end = now() + PATIENCE;
    let (known, peers) = loop {
        let known = Known::read(cluster).await?;
        let statuses = statuses(&known.global, &known.peers).await;
        match choose(&known, names, &statuses) {
            Ok(peers) => {
                let peers: Vec<Peer> = peers.into_iter().cloned().collect();
                break (known, peers);
            }
            Err(Wait::Never(failure)) => return Err(failure),
            Err(Wait::For(failure)) if now() >= end => return Err(failure),
            Err(Wait::For(_)) => sleep(PAUSE).await,
        }
    };
    let ring = cluster
        .change_ring(|ring| {
            let already = peers.iter().find(|peer| has(ring, peer));
            match already {
                Some(peer) => Err(in_ring(&peer.address)),
                None => with_peers(ring, &peers.iter().collect::<Vec<_>>()).map(Some),
            }
        })
        .await?;
    Ok(report(&ring, &known.peers, &peers, &[]))
}

/// Adds every peer that answers; that there is none to add is no failure.
pub(super) async fn all(cluster: &Cluster) -> Result<Report, Failure> {
    let begin = now();
    let (known, statuses) = loop {
        let known = Known::read(cluster).await?;
        let statuses = statuses(&known.global, &known.peers).await;
        let silent = silent(&known, &statuses).len();
        let waited = now().saturating_duration_since(begin);
        let patience = match known.peers.len() - silent {
            0 => PATIENCE,
            _ if silent > 0 => SILENT_PATIENCE,
            _ => Duration::ZERO,
        };
        if waited >= patience {
            break (known, statuses);
        }
        sleep(PAUSE).await;
    };
    let answers = |peer: &&Peer| matches!(statuses.get(&peer.id), Some(Ok(_)));
    let peers: Vec<Peer> = known.peers.iter().filter(answers).cloned().collect();
    if peers.is_empty() {
        return Err(Failure::failed(
            "no peer answers; start daemons with torusd, and see 'torusctl peer list'",
        ));
    }
    let mut added = Vec::new();
    let ring = cluster
        .change_ring(|ring| {
            added = peers.iter().filter(|peer| !has(ring, peer)).cloned().collect();
            match added.is_empty() {
                true => Ok(None),
                false => with_peers(ring, &added.iter().collect::<Vec<_>>()).map(Some),
            }
        })
        .await?;
    let left_out: Vec<_> =
        silent(&known, &statuses).into_iter().filter(|peer| !has(&ring, peer)).collect();
    Ok(report(&ring, &known.peers, &added, &left_out))
}

fn silent<'a>(known: &'a Known, statuses: &Statuses) -> Vec<&'a Peer> {
    let answers = |peer: &Peer| matches!(statuses.get(&peer.id), Some(Ok(_)));
    known.peers.iter().filter(|peer| !answers(peer)).collect()
}

/// Why peers cannot be added.
enum Wait {
    /// Unless it becomes different soon.
    For(Failure),
    /// However long one waits.
    Never(Failure),
}

/// The peers of these names. Of several that had the same address the one that answers is meant.
fn choose<'a>(
    known: &'a Known,
    names: &[PeerName],
    statuses: &Statuses,
) -> Result<Vec<&'a Peer>, Wait> {
    let mut chosen: Vec<&Peer> = Vec::new();
    for name in names {
        let candidates = known.named(name);
        if candidates.is_empty() {
            return Err(Wait::For(Failure::failed(format!(
                "no peer {} is registered; start it with torusd --join, and see 'torusctl peer \
                 list'",
                text(name)
            ))));
        }
        if let Some(peer) = candidates.iter().find(|peer| has(&known.ring, peer)) {
            return Err(Wait::Never(in_ring(&peer.address)));
        }
        let answers = |peer: &&&Peer| matches!(statuses.get(&peer.id), Some(Ok(_)));
        let Some(&peer) = candidates.iter().find(answers) else {
            let error = candidates.iter().find_map(|peer| statuses.get(&peer.id)?.clone().err());
            return Err(Wait::For(Failure::failed(format!(
                "peer {} cannot be added: {}; start it, and see 'torusctl peer list'",
                text(name),
                error.unwrap_or(PeerError::Silent)
            ))));
        };
        if !chosen.iter().any(|other| other.id == peer.id) {
            chosen.push(peer);
        }
    }
    Ok(chosen)
}

fn has(ring: &Ring, peer: &Peer) -> bool {
    ring.members.iter().any(|member| member.peer == peer.id)
}

fn in_ring(address: &str) -> Failure {
    Failure::failed(format!(
        "peer {address} is in the ring already; 'torusctl ring get' shows who is"
    ))
}

fn report(ring: &Ring, peers: &[Peer], added: &[Peer], left_out: &[&Peer]) -> Report {
    let addresses = |peers: &mut dyn Iterator<Item = &Peer>| {
        peers.map(|peer| &*peer.address).collect::<Vec<_>>().join(", ")
    };
    let mut text = match added {
        [] => "Every peer that answers is in the ring already.\n".to_owned(),
        added => {
            format!("Added {}: {}\n", count(added.len(), "peer"), addresses(&mut added.iter()))
        }
    };
    if !left_out.is_empty() {
        let left_out = addresses(&mut left_out.iter().copied());
        text.push_str(&format!("Left out, as they do not answer: {left_out}\n"));
    }
    text.push_str(&summary(ring));
    text.push('\n');
    let uuids = |peers: &mut dyn Iterator<Item = &Peer>| {
        peers.map(|peer| peer.id.to_string()).collect::<Vec<_>>()
    };
    let json = json!({
        "added": uuids(&mut added.iter()),
        "left_out": uuids(&mut left_out.iter().copied()),
        "ring": facts(ring, peers),
    });
    Report::new(text, json)
}

fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::peer::survey::tests::{ring, up};
    use crate::ctl::peer::tests::{global, peer};
    use expect_test::{Expect, expect};

    /// Peers 1 to 3 are registered, 1 is in the ring, and 1 and 2 answer.
    #[track_caller]
    fn check(names: &[&str], expected: Expect) {
        let peers = vec![peer(1), peer(2), peer(3)];
        let known = Known { global: global(), ring: ring(&[1]), peers };
        let names: Vec<PeerName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let found = match choose(&known, &names, &up(&[1, 2])) {
            Ok(peers) => peers.iter().map(|peer| &*peer.address).collect::<Vec<_>>().join(", "),
            Err(Wait::For(failure)) => format!("waits: {}", failure.line()),
            Err(Wait::Never(failure)) => failure.line(),
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn a_name_is_an_address_or_a_uuid() {
        let second = "00000000-0000-0000-0000-000000000002";
        check(&["http://127.0.0.1:40002", second], expect!["127.0.0.1:40002"]);
    }

    #[test]
    fn who_is_not_there_yet_is_waited_for() {
        check(
            &["127.0.0.1:40002", "127.0.0.1:40003"],
            expect![
                "waits: peer 127.0.0.1:40003 cannot be added: it does not answer; start it, and see 'torusctl peer list'"
            ],
        );
        check(
            &["127.0.0.1:40009"],
            expect![
                "waits: no peer 127.0.0.1:40009 is registered; start it with torusd --join, and see 'torusctl peer list'"
            ],
        );
    }

    #[test]
    fn who_is_in_the_ring_is_not_added() {
        check(
            &["127.0.0.1:40001"],
            expect![
                "peer 127.0.0.1:40001 is in the ring already; 'torusctl ring get' shows who is"
            ],
        );
    }

    #[test]
    fn what_was_done_is_told() {
        let peers = [peer(1), peer(2), peer(3)];
        let ring = ring(&[1, 2]);
        let report = report(&ring, &peers, &peers[..2], &[&peers[2]]);
        expect![[r#"
            Added 2 peers: 127.0.0.1:40001, 127.0.0.1:40002
            Left out, as they do not answer: 127.0.0.1:40003
            The ring is at version 2: ketama, replication 2, 2 peers.
        "#]]
        .assert_eq(&report.text);
    }
}
