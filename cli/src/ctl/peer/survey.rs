//! What is known of the peers, put together: the metadata's word and their own.

use std::collections::BTreeSet;

use serde::Serialize;
use torus_blockstore::Geometry;
use torus_distributor::{PeerError, Refusal, reserve_blocks};
use torus_metadata::{GlobalMetadata, Peer, Ring};

use crate::ctl::cluster::Statuses;
use crate::ctl::report::{percent, table};
use crate::size::Bytes;

/// All peers.
#[derive(Debug, Serialize)]
pub(in crate::ctl) struct Survey {
    pub(in crate::ctl) peers: Vec<Row>,
    /// The version of the ring.
    pub(in crate::ctl) ring: u64,
    /// Every member of the ring answers, every peer that answers follows this ring, and none has a
    /// block left to look at or to move.
    pub(in crate::ctl) balanced: bool,
    /// Bytes, of the members of the ring that answer.
    pub(in crate::ctl) size: u64,
    pub(in crate::ctl) used: u64,
    /// Of all that answer.
    pub(in crate::ctl) blocks_to_move: u64,
}

/// One peer.
#[derive(Debug, Serialize)]
pub(in crate::ctl) struct Row {
    /// `None`: the ring names it, but it is not registered.
    pub(in crate::ctl) address: Option<String>,
    pub(in crate::ctl) uuid: String,
    pub(in crate::ctl) zone: String,
    /// Bytes.
    pub(in crate::ctl) size: Option<u64>,
    pub(in crate::ctl) used: Option<u64>,
    /// Of its size, what is kept for checkpoints and garbage collection.
    pub(in crate::ctl) reserve: Option<u64>,
    /// The ring names it.
    pub(in crate::ctl) member: bool,
    /// `up`, `down`, `slow`, `missing` (not registered), `other cluster`, `other peer` (both: whoever
    /// listens at its address) or what it answers.
    pub(in crate::ctl) state: String,
    /// The version of the ring that it follows.
    ring: Option<u64>,
    unchecked_blocks: Option<u64>,
    blocks_to_move: Option<u64>,
    blocks_moved: Option<u64>,
    bytes_moved: Option<u64>,
    bytes_per_second: Option<u64>,
}

impl Row {
    pub(in crate::ctl) fn is_up(&self) -> bool {
        self.state == "up"
    }

    /// Its address, or its UUID if it has none.
    pub(in crate::ctl) fn name(&self) -> &str {
        self.address.as_deref().unwrap_or(&self.uuid)
    }
}

/// Puts together what the metadata says and what the peers say.
pub(in crate::ctl) fn survey(
    global: &GlobalMetadata,
    ring: &Ring,
    peers: &[Peer],
    statuses: &Statuses,
) -> Survey {
    let block_size = u64::from(global.block_size);
    let members: BTreeSet<_> = ring.members.iter().map(|member| member.peer).collect();
    let registered: BTreeSet<_> = peers.iter().map(|peer| peer.id).collect();
    let mut sorted: Vec<&Peer> = peers.iter().collect();
    sorted.sort_by_key(|peer| (&peer.address, peer.id));
    let mut rows: Vec<Row> = sorted
        .into_iter()
        .map(|peer| {
            let status = statuses.get(&peer.id).cloned().unwrap_or(Err(PeerError::Silent));
            let said = status.as_ref().ok();
            let capacity = said.map_or(peer.size_blocks, |status| status.capacity_blocks);
            Row {
                address: Some(peer.address.clone()),
                uuid: peer.id.to_string(),
                zone: peer.zone.clone(),
                size: Some(capacity.saturating_mul(block_size)),
                used: said.map(|status| status.used_blocks.saturating_mul(block_size)),
                reserve: said.map(|_| {
                    let geometry =
                        Geometry { block_size: global.block_size, capacity_blocks: capacity };
                    reserve_blocks(geometry).saturating_mul(block_size)
                }),
                member: members.contains(&peer.id),
                state: match &status {
                    Ok(_) => "up".to_owned(),
                    Err(PeerError::Silent) => "down".to_owned(),
                    Err(PeerError::TooSlow) => "slow".to_owned(),
                    Err(PeerError::Refused(Refusal::WrongCluster)) => "other cluster".to_owned(),
                    Err(PeerError::Refused(Refusal::WrongPeer)) => "other peer".to_owned(),
                    Err(PeerError::Refused(refusal)) => refusal.to_string(),
                },
                ring: said.map(|status| status.ring),
                unchecked_blocks: said.map(|status| status.unchecked_blocks),
                blocks_to_move: said.map(|status| status.blocks_to_move),
                blocks_moved: said.map(|status| status.blocks_moved),
                bytes_moved: said.map(|status| status.bytes_moved),
                bytes_per_second: said.map(|status| status.bytes_per_second),
            }
        })
        .collect();
    rows.extend(members.difference(&registered).map(|id| missing(id.to_string())));
    Survey::new(ring, rows)
}

/// A member of the ring of which nothing else is known.
fn missing(uuid: String) -> Row {
    Row {
        address: None,
        uuid,
        zone: String::new(),
        size: None,
        used: None,
        reserve: None,
        member: true,
        state: "missing".to_owned(),
        ring: None,
        unchecked_blocks: None,
        blocks_to_move: None,
        blocks_moved: None,
        bytes_moved: None,
        bytes_per_second: None,
    }
}

impl Survey {
    fn new(ring: &Ring, peers: Vec<Row>) -> Self {
        let version = ring.version.0;
        let is_settled = |row: &Row| {
            let follows = row.ring == Some(version);
            follows && row.unchecked_blocks == Some(0) && row.blocks_to_move == Some(0)
        };
        let balanced = peers.iter().filter(|row| row.member || row.is_up()).all(is_settled);
        let storing = || peers.iter().filter(|row| row.member && row.is_up());
        Self {
            ring: version,
            balanced,
            size: storing().filter_map(|row| row.size).sum(),
            used: storing().filter_map(|row| row.used).sum(),
            blocks_to_move: peers.iter().filter_map(|row| row.blocks_to_move).sum(),
            peers,
        }
    }

    /// The table, and the sums below it.
    pub(super) fn text(&self) -> String {
        let has_zones = self.peers.iter().any(|row| !row.zone.is_empty());
        let mut heading =
            vec!["ADDRESS", "UUID", ">SIZE", ">USED", "MEMBER", "STATE", ">TO MOVE", ">RATE"];
        if has_zones {
            heading.push("ZONE");
        }
        let rows = self.peers.iter().map(|row| {
            let mut cells = cells(row);
            if has_zones {
                cells.push(row.zone.clone());
            }
            cells
        });
        format!(
            "{}\nBalanced: {}  Usage: {:.2}%  Blocks to move: {}  Ring version: {}\n",
            table(&heading, rows),
            if self.balanced { "yes" } else { "no" },
            percent(self.used, self.size),
            self.blocks_to_move,
            self.ring,
        )
    }
}

fn cells(row: &Row) -> Vec<String> {
    let size = |bytes: Option<u64>| bytes.map_or("?".to_owned(), |bytes| Bytes(bytes).to_string());
    vec![
        row.address.clone().unwrap_or_else(|| "-".to_owned()),
        row.uuid.clone(),
        size(row.size),
        size(row.used),
        if row.member { "in ring" } else { "available" }.to_owned(),
        row.state.clone(),
        row.blocks_to_move.map_or_else(|| "?".to_owned(), |blocks| blocks.to_string()),
        row.bytes_per_second.map_or("?".to_owned(), |rate| format!("{}/s", Bytes(rate))),
    ]
}

#[cfg(test)]
pub(in crate::ctl) mod tests {
    use super::*;
    use crate::ctl::peer::tests::{global, peer};
    use crate::ctl::ring::{with_peers, without_peers};
    use expect_test::expect;
    use torus_distributor::Status;
    use torus_metadata::{RingKind, RingVersion};

    /// A ring of the peers of these numbers.
    pub(in crate::ctl) fn ring(numbers: &[u16]) -> Ring {
        let empty = Ring {
            version: RingVersion(1),
            kind: RingKind::Empty,
            replication: 2,
            members: vec![],
        };
        let peers: Vec<_> = numbers.iter().copied().map(peer).collect();
        with_peers(&empty, &peers.iter().collect::<Vec<_>>()).unwrap()
    }

    /// Peers of these numbers that answer.
    pub(in crate::ctl) fn up(numbers: &[u16]) -> Statuses {
        let status =
            Status { used_blocks: 10240, capacity_blocks: 40960, ring: 2, ..Status::default() };
        numbers.iter().map(|number| (peer(*number).id, Ok(status))).collect()
    }

    #[test]
    fn peers_are_listed_with_what_they_say() {
        let mut statuses = up(&[1, 3]);
        let moving = statuses.get_mut(&peer(3).id).unwrap().as_mut().unwrap();
        (moving.blocks_to_move, moving.bytes_per_second) = (12, 3 << 20);
        let peers = [peer(1), peer(2), peer(3)];
        let survey = survey(&global(), &ring(&[1, 2, 9]), &peers, &statuses);
        expect![[r#"
            ADDRESS          UUID                                      SIZE     USED  MEMBER     STATE    TO MOVE       RATE
            127.0.0.1:40001  00000000-0000-0000-0000-000000000001  20.0 GiB  5.0 GiB  in ring    up             0      0 B/s
            127.0.0.1:40002  00000000-0000-0000-0000-000000000002  20.0 GiB        ?  in ring    down           ?          ?
            127.0.0.1:40003  00000000-0000-0000-0000-000000000003  20.0 GiB  5.0 GiB  available  up            12  3.0 MiB/s
            -                00000000-0000-0000-0000-000000000009         ?        ?  in ring    missing        ?          ?

            Balanced: no  Usage: 25.00%  Blocks to move: 12  Ring version: 2
        "#]]
        .assert_eq(&survey.text());
    }

    #[test]
    fn balance_is_what_all_that_matter_say() {
        let peers = [peer(1), peer(2)];
        let balanced =
            |ring: &Ring, statuses: &Statuses| survey(&global(), ring, &peers, statuses).balanced;
        assert!(balanced(&ring(&[1, 2]), &up(&[1, 2])));
        assert!(!balanced(&ring(&[1, 2]), &up(&[1])), "a member is down");
        assert!(balanced(&ring(&[1]), &up(&[1])), "another peer is down");
        let newer = without_peers(&ring(&[1, 2]), &[peer(2).id]);
        assert!(!balanced(&newer, &up(&[1, 2])), "they follow an older ring");
    }

    #[test]
    fn programs_get_bytes() {
        let survey = survey(&global(), &ring(&[1]), &[peer(1)], &up(&[1]));
        expect![[r#"
            {
              "balanced": true,
              "blocks_to_move": 0,
              "peers": [
                {
                  "address": "127.0.0.1:40001",
                  "blocks_moved": 0,
                  "blocks_to_move": 0,
                  "bytes_moved": 0,
                  "bytes_per_second": 0,
                  "member": true,
                  "reserve": 1073741824,
                  "ring": 2,
                  "size": 21474836480,
                  "state": "up",
                  "unchecked_blocks": 0,
                  "used": 5368709120,
                  "uuid": "00000000-0000-0000-0000-000000000001",
                  "zone": ""
                }
              ],
              "ring": 2,
              "size": 21474836480,
              "used": 5368709120
            }"#]]
        .assert_eq(&format!("{:#}", serde_json::json!(survey)));
    }
}
