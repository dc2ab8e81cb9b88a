//! `torusctl peer blocks`: what a peer holds, by its own word.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use torus_blockstore::{BlockKind, BlockRef, BlockState, PeerId};
use torus_distributor::{Peers, Placer, Request, Response};
use torus_metadata::{Error, Volume};

use super::Known;
use crate::ctl::arguments::PeerName;
use crate::ctl::cluster::{Cluster, data_path};
use crate::ctl::report::{Report, count, table};
use crate::ctl::ring::copies;
use crate::failure::{Failure, chain};

/// Blocks that are asked for at once; a peer gives no more than it likes.
const PAGE: u32 = 1024;

type Held = Vec<(BlockRef, BlockState)>;

pub(super) async fn run(
    cluster: &Cluster,
    name: &PeerName,
    with_places: bool,
) -> Result<Report, Failure> {
    let known = Known::read(cluster).await?;
    let peer = known.one(name)?;
    let path = data_path(&known.global, std::slice::from_ref(peer));
    let mut blocks = Held::new();
    loop {
        let after = blocks.last().map(|(block, _)| *block);
        let request = Request::List { volume: None, after, limit: PAGE };
        match path.request(peer.id, request).await {
            Ok(Response::Blocks(page)) if page.is_empty() => break,
            Ok(Response::Blocks(page)) => blocks.extend(page),
            Ok(_) => return Err(Error::Protocol { what: "a list of blocks" }.into()),
            Err(error) => {
                return Err(Failure::failed(format!(
                    "peer {} at {} does not list its blocks: {}; see 'torusctl peer list'",
                    peer.id,
                    peer.address,
                    chain(&error)
                )));
            }
        }
    }
    let places = match with_places {
        true => {
            Some(Places { placer: Placer::new(&known.ring), volumes: cluster.volumes().await? })
        }
        false => None,
    };
    Ok(report(peer.id, &blocks, places.as_ref()))
}

/// Where blocks belong.
struct Places {
    placer: Placer,
    volumes: Vec<Volume>,
}

impl Places {
    fn of(&self, block: &BlockRef) -> Vec<String> {
        let copies = copies(&self.volumes, block.volume);
        let places = self.placer.places(block, &BTreeSet::new(), copies);
        places.iter().map(PeerId::to_string).collect()
    }
}

fn report(peer: PeerId, blocks: &Held, places: Option<&Places>) -> Report {
    let mut heading = vec![">VOLUME", "KIND", ">INODE", ">INDEX", "STATE", ">LENGTH"];
    heading.extend(places.map(|_| "PLACES"));
    let mut rows = Vec::new();
    let mut facts = Vec::new();
    for (block, state) in blocks {
        let kind = match block.kind {
            BlockKind::Data => "data",
            BlockKind::INode => "inode",
        };
        let (state, length) = match state {
            BlockState::Open { length } => ("open", Some(*length)),
            BlockState::Unsettled => ("unsettled", None),
            BlockState::Sealed(seal) => ("sealed", Some(seal.length)),
        };
        let mut row = vec![
            block.volume.to_string(),
            kind.to_owned(),
            block.inode.0.to_string(),
            block.index.0.to_string(),
            state.to_owned(),
            length.map_or_else(|| "?".to_owned(), |length| length.to_string()),
        ];
        let mut fact = json!({
            "volume": block.volume.get(),
            "kind": kind,
            "inode": block.inode.0,
            "index": block.index.0,
            "state": state,
            "length": length,
        });
        if let Some(places) = places.map(|places| places.of(block)) {
            row.push(places.join(" "));
            fact["places"] = places.into();
        }
        rows.push(row);
        facts.push(fact);
    }
    let text = format!("{}\n{}\n", table(&heading, rows), count(blocks.len(), "block"));
    Report::new(text, json!({ "peer": peer.to_string(), "blocks": Value::Array(facts) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::peer::survey::tests::ring;
    use crate::ctl::peer::tests::peer;
    use expect_test::expect;
    use torus_blockstore::{BlockIndex, INodeIndex, Seal, VolumeId};

    fn example() -> Held {
        let block = |kind, index| BlockRef {
            volume: VolumeId::new(1).unwrap(),
            kind,
            inode: INodeIndex(3),
            index: BlockIndex(index),
        };
        vec![
            (block(BlockKind::Data, 0), BlockState::Sealed(Seal { length: 524288, crc: 1 })),
            (block(BlockKind::Data, 1), BlockState::Open { length: 4096 }),
            (block(BlockKind::INode, 0), BlockState::Unsettled),
        ]
    }

    #[test]
    fn blocks_are_listed_with_their_state() {
        let report = report(peer(1).id, &example(), None);
        expect![[r#"
            VOLUME  KIND   INODE  INDEX  STATE      LENGTH
                 1  data       3      0  sealed     524288
                 1  data       3      1  open         4096
                 1  inode      3      0  unsettled       ?

            3 blocks
        "#]]
        .assert_eq(&report.text);
    }

    #[test]
    fn programs_get_the_places_if_they_like() {
        let held = example();
        let places = Places { placer: Placer::new(&ring(&[1])), volumes: vec![] };
        let report = report(peer(1).id, &held[1..2].to_vec(), Some(&places));
        expect![[r#"
            {
              "blocks": [
                {
                  "index": 1,
                  "inode": 3,
                  "kind": "data",
                  "length": 4096,
                  "places": [
                    "00000000-0000-0000-0000-000000000001"
                  ],
                  "state": "open",
                  "volume": 1
                }
              ],
              "peer": "00000000-0000-0000-0000-000000000001"
            }"#]]
        .assert_eq(&format!("{:#}", report.json));
    }
}
