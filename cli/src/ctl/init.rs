//! `torusctl init`.

use serde_json::json;
use torus_metadata::{Group, InitOptions, RingKind};

use super::arguments::InitArguments;
use super::cluster::Cluster;
use super::rehearsal;
use super::report::{Report, count};
use super::ring::kind_name;
use crate::failure::Failure;
use crate::size::Bytes;

/// Begins a cluster, or shows what it would be.
pub(super) async fn run(cluster: &Cluster, arguments: &InitArguments) -> Result<Report, Failure> {
    let options = check(arguments)?;
    if arguments.view {
        return view(cluster, &options).await;
    }
    let began = cluster.administer(cluster.admin.init(options.clone())).await?;
    let peers = usize::try_from(began.peers).unwrap_or(usize::MAX);
    let text = format!(
        "Cluster {} begins, with {}.\n{}Next: torusctl peer add --all-peers\n",
        began.cluster,
        count(peers, "daemon"),
        describe(&options),
    );
    let mut json = facts(&options);
    json["cluster"] = began.cluster.to_string().into();
    json["peers"] = began.peers.into();
    Ok(Report::new(text, json))
}

/// Copies of each block when nobody says how many.
const DEFAULT_COPIES: u32 = 2;

fn check(arguments: &InitArguments) -> Result<InitOptions, Failure> {
    let Bytes(bytes) = arguments.block_size;
    // What does not fit is too large all the same.
    let block_size = u32::try_from(bytes).unwrap_or(u32::MAX);
    let ring = if arguments.no_ring { RingKind::Empty } else { RingKind::Ketama };
    let replication = copies(arguments)?;
    rehearsal::init(block_size, ring, replication).map_err(|refusal| {
        let Bytes(block_size) = arguments.block_size;
        Failure::usage(format!("block size {block_size}, replication {replication}: {refusal}"))
    })?;
    let (block_spec, voters_max) = (arguments.block_spec.clone(), arguments.voters);
    if let Some(voters) = voters_max {
        rehearsal::voters(voters).map_err(|refusal| Failure::usage(refusal.to_string()))?;
    }
    Ok(InitOptions { block_size, block_spec, replication, ring, voters_max })
}

/// How many peers hold each block: by `--replication`, or by the layer rep of the block spec.
fn copies(arguments: &InitArguments) -> Result<u32, Failure> {
    match (arguments.replication, arguments.block_spec.copies()) {
        (Some(ring), Some(spec)) if ring != spec => Err(Failure::usage(format!(
            "the block spec asks for {spec} copies and --replication for {ring}; leave one out"
        ))),
        (Some(copies), _) | (None, Some(copies)) => Ok(copies),
        (None, None) => Ok(DEFAULT_COPIES),
    }
}

/// What is written, if there is a cluster already; else what would be.
async fn view(cluster: &Cluster, options: &InitOptions) -> Result<Report, Failure> {
    let written = match cluster.reach().await {
        Ok(()) => cluster.admin.status().await.ok(),
        Err(_) => None,
    };
    let Some(group) = written else {
        let mut json = facts(options);
        json["cluster"] = serde_json::Value::Null;
        return Ok(Report::new(format!("{}Written: no\n", describe(options)), json));
    };
    let (global, ring) = (cluster.global().await?, cluster.ring().await?);
    let options = InitOptions {
        block_size: global.block_size,
        block_spec: global.block_spec,
        replication: ring.replication,
        ring: ring.kind,
        voters_max: Some(group.voters_max),
    };
    let mut json = facts(&options);
    json["cluster"] = group.cluster.to_string().into();
    let text = format!("{}Written: yes, to cluster {}\n", describe(&options), group.cluster);
    Ok(Report::new(text, json))
}

fn describe(options: &InitOptions) -> String {
    format!(
        "Block size: {} bytes\nBlock spec: {}\nReplication: {}\nRing: {}\nVoters: up to {}\n",
        options.block_size,
        options.block_spec,
        options.replication,
        kind_name(options.ring),
        voters_max(options),
    )
}

fn facts(options: &InitOptions) -> serde_json::Value {
    json!({
        "block_size": options.block_size,
        "block_spec": options.block_spec.to_string(),
        "replication": options.replication,
        "ring": kind_name(options.ring),
        "voters_max": voters_max(options),
    })
}

fn voters_max(options: &InitOptions) -> u32 {
    options.voters_max.unwrap_or(Group::VOTERS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[track_caller]
    fn check_of(size: &str, replication: u32, expected: Expect) {
        let arguments = InitArguments {
            block_size: size.parse().unwrap(),
            block_spec: "crc".parse().unwrap(),
            replication: Some(replication),
            no_ring: false,
            voters: None,
            view: false,
        };
        let found = match check(&arguments) {
            Ok(options) => describe(&options),
            Err(failure) => {
                assert!(matches!(failure, Failure::Usage(_)));
                failure.line()
            }
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn the_block_spec_may_say_how_many_copies() {
        let copies = |spec: &str, replication| {
            let block_spec = spec.parse().unwrap();
            let block_size = Bytes(1 << 19);
            let arguments = InitArguments {
                block_size,
                block_spec,
                replication,
                no_ring: false,
                voters: None,
                view: false,
            };
            super::copies(&arguments).map_err(|failure| failure.line())
        };
        assert_eq!(copies("crc", None), Ok(2));
        assert_eq!(copies("crc,rep=3", None), Ok(3));
        assert_eq!(copies("crc,rep=3", Some(3)), Ok(3));
        let both = "the block spec asks for 3 copies and --replication for 2; leave one out";
        assert_eq!(copies("crc,rep=3", Some(2)), Err(both.to_owned()));
    }

    #[test]
    fn bad_values_are_refused_before_anything_is_sent() {
        check_of(
            "500KiB",
            2,
            expect![
                "block size 512000, replication 2: the block size is not valid: it must be a power of two from 64 KiB to 32 MiB"
            ],
        );
        check_of(
            "8GiB",
            2,
            expect![
                "block size 8589934592, replication 2: the block size is not valid: it must be a power of two from 64 KiB to 32 MiB"
            ],
        );
        check_of(
            "512KiB",
            0,
            expect![
                "block size 524288, replication 0: the replication is not valid: it must be from 1 to 16"
            ],
        );
    }

    #[test]
    fn what_is_written_is_shown() {
        check_of(
            "512KiB",
            2,
            expect![[r#"
                Block size: 524288 bytes
                Block spec: crc,base
                Replication: 2
                Ring: ketama
                Voters: up to 5
            "#]],
        );
    }
}
