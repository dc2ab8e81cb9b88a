//! `torusctl volume`.

use serde_json::{Value, json};
use torus_metadata::{Command, Error, Outcome, Refusal, Volume};

use super::arguments::{NewVolume, VolumeCommand};
use super::cluster::Cluster;
use super::rehearsal;
use super::report::{Report, table};
use crate::failure::Failure;
use crate::size::Bytes;

/// The size of a volume is a multiple of this: the largest unit in which clients write.
const SIZE_UNIT: u64 = 4096;
/// Characters of a bad name that are shown.
const SHOWN: usize = 64;

pub(super) async fn run(cluster: &Cluster, command: &VolumeCommand) -> Result<Report, Failure> {
    match command {
        VolumeCommand::CreateBlock(volume) => create(cluster, volume).await,
        VolumeCommand::List => {
            let volumes = cluster.volumes().await?;
            let json = volumes.iter().map(facts).collect::<Vec<_>>();
            Ok(Report::new(list(&volumes), json!({ "volumes": json })))
        }
        VolumeCommand::Info { name } => {
            let volume = cluster.volume(name).await?;
            Ok(Report::new(info(&volume), facts(&volume)))
        }
        VolumeCommand::Delete { name } => {
            cluster.execute(Command::DeleteVolume { name: name.clone() }).await?;
            let text = format!("Deleted volume {name}. The peers free its blocks by and by.\n");
            Ok(Report::new(text, json!({ "deleted": name })))
        }
    }
}

/// Creates a volume and says how to use it.
pub(super) async fn create(cluster: &Cluster, volume: &NewVolume) -> Result<Report, Failure> {
    let size = check(&volume.name, volume.size)?;
    let name = volume.name.clone();
    let applied = cluster.execute(Command::CreateVolume { name, size, spec: None }).await?;
    let Outcome::Volume(volume) = applied.outcome else {
        return Err(Error::Protocol { what: "a new volume" }.into());
    };
    let text = format!(
        "Created volume {name} of {size}.\n\
         Next: 'torusblk nbdserve {name}' serves it to any NBD client, and 'sudo torusblk nbd {name} \
         /dev/nbd0' attaches it to this machine's kernel.\n",
        name = volume.name,
        size = Bytes(volume.size),
    );
    Ok(Report::new(text, facts(&volume)))
}

/// The size that such a volume gets.
fn check(name: &str, size: Bytes) -> Result<u64, Failure> {
    let Bytes(bytes) = size;
    let bytes = bytes.checked_next_multiple_of(SIZE_UNIT).unwrap_or(u64::MAX);
    let Err(refusal) = rehearsal::volume(name, bytes) else { return Ok(bytes) };
    match &refusal {
        // A size that is well written, but more than there can be.
        Refusal::Invalid { what: "the size", why } if bytes > 0 => {
            Err(Failure::failed(format!("a volume of {size} cannot be made: {why}")))
        }
        Refusal::Invalid { what: "the size", .. } => {
            Err(Failure::usage(format!("size {size}: {refusal}")))
        }
        _ => Err(Failure::usage(format!("volume {}: {refusal}", shown(name)))),
    }
}

fn shown(name: &str) -> String {
    let length = name.chars().count();
    match length {
        0 => "\"\" (empty)".to_owned(),
        1..=SHOWN => format!("{name:?}"),
        _ => {
            let start: String = name.chars().take(SHOWN).collect();
            format!("{start:?}… ({length} characters)")
        }
    }
}

fn list(volumes: &[Volume]) -> String {
    let mut volumes: Vec<_> = volumes.iter().collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let row = |volume: &Volume| {
        vec![
            volume.name.clone(),
            Bytes(volume.size).to_string(),
            "block".to_owned(),
            in_use(volume),
        ]
    };
    table(&["VOLUME NAME", ">SIZE", "TYPE", "STATUS"], volumes.into_iter().map(row))
}

fn in_use(volume: &Volume) -> String {
    match &volume.lock {
        Some(lock) => format!("in use by {}", lock.owner),
        None => "free".to_owned(),
    }
}

fn info(volume: &Volume) -> String {
    let checkpoint = match &volume.head {
        Some(head) => format!("INode {}, {} blocks", head.inode.0, head.blocks),
        None => "none yet".to_owned(),
    };
    format!(
        "Name: {}\nID: {}\nSize: {} ({} bytes)\nType: block\nBlock spec: {}\nStatus: {}\n\
         Opened: {} times\nCheckpoint: {checkpoint}\nOpen windows: {}\n",
        volume.name,
        volume.id,
        Bytes(volume.size),
        volume.size,
        volume.block_spec,
        in_use(volume),
        volume.epoch,
        volume.windows.len(),
    )
}

fn facts(volume: &Volume) -> Value {
    json!({
        "name": volume.name,
        "id": volume.id.get(),
        "size": volume.size,
        "type": "block",
        "block_spec": volume.block_spec.to_string(),
        "status": if volume.lock.is_some() { "in-use" } else { "free" },
        "in_use_by": volume.lock.as_ref().map(|lock| &lock.owner),
        "epoch": volume.epoch.0,
        "inode_index": volume.inode_index.0,
        "head": volume.head.as_ref().map(|head| head.inode.0),
        "windows": volume.windows.len(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use torus_blockstore::{BlockSpec, Epoch, INodeIndex, VolumeId};
    use torus_metadata::{Lock, SessionId};

    /// A volume of 10 GiB.
    pub(in crate::ctl) fn volume(id: u64, name: &str, owner: Option<&str>) -> Volume {
        let lock =
            |owner: &str| Lock { session: SessionId(1), epoch: Epoch(2), owner: owner.to_owned() };
        Volume {
            id: VolumeId::new(id).unwrap(),
            name: name.to_owned(),
            size: 10 << 30,
            block_spec: BlockSpec::default(),
            inode_index: INodeIndex(4),
            head: None,
            windows: vec![],
            epoch: Epoch(2),
            lock: owner.map(lock),
        }
    }

    #[track_caller]
    fn check_of(name: &str, size: &str, expected: Expect) {
        let found = match check(name, size.parse().unwrap()) {
            Ok(bytes) => bytes.to_string(),
            Err(Failure::Usage(error)) => format!("usage: {error}"),
            Err(Failure::Failed(error)) => format!("failed: {error}"),
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn sizes_are_rounded_up() {
        check_of("disk", "10GiB", expect!["10737418240"]);
        check_of("disk", "1", expect!["4096"]);
    }

    #[test]
    fn bad_names_and_sizes_are_refused_before_anything_is_sent() {
        check_of(
            "a/b",
            "1GiB",
            expect![[
                r#"usage: volume "a/b": the volume name is not valid: only A-Z, a-z, 0-9, '.', '_' and '-' may stand in it"#
            ]],
        );
        check_of(
            "",
            "1GiB",
            expect![[
                r#"usage: volume "" (empty): the volume name is not valid: it must have 1 to 255 characters"#
            ]],
        );
        check_of(
            &"x".repeat(300),
            "1GiB",
            expect![[
                r#"usage: volume "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"… (300 characters): the volume name is not valid: it must have 1 to 255 characters"#
            ]],
        );
        check_of(
            "disk",
            "0",
            expect!["usage: size 0 B: the size is not valid: it must be more than 0"],
        );
        check_of(
            "disk",
            "1EiB",
            expect!["failed: a volume of 1.0 EiB cannot be made: a volume has at most 256 TiB"],
        );
        check_of(
            "disk",
            "18446744073709551615",
            expect!["failed: a volume of 16.0 EiB cannot be made: a volume has at most 256 TiB"],
        );
    }

    #[test]
    fn volumes_are_listed_by_name() {
        let volumes =
            [volume(1, "myVolume", None), volume(2, "disk", Some("host-1 (torusblk 77)"))];
        expect![[r#"
            VOLUME NAME      SIZE  TYPE   STATUS
            disk         10.0 GiB  block  in use by host-1 (torusblk 77)
            myVolume     10.0 GiB  block  free
        "#]]
        .assert_eq(&list(&volumes));
        expect![[r#"{"block_spec":"crc,base","epoch":2,"head":null,"id":2,"in_use_by":"host-1 (torusblk 77)","inode_index":4,"name":"disk","size":10737418240,"status":"in-use","type":"block","windows":0}"#]].assert_eq(&facts(&volumes[1]).to_string());
        expect![[r#"
            Name: myVolume
            ID: 1
            Size: 10.0 GiB (10737418240 bytes)
            Type: block
            Block spec: crc,base
            Status: free
            Opened: 2 times
            Checkpoint: none yet
            Open windows: 0
        "#]]
        .assert_eq(&info(&volumes[0]));
    }
}
