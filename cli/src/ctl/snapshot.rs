//! `torusctl snapshot`: volumes as they were.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use torus_metadata::{Command, Snapshot, Task, Volume};

use super::arguments::SnapshotCommand;
use super::cluster::{Cluster, refused};
use super::rehearsal;
use super::report::{Report, table};
use super::storage::{self, find_snapshot, interrupted};
use crate::clock::{now_ms, utc};
use crate::failure::Failure;
use crate::interrupt;
use crate::name::{SnapshotName, shown};
use crate::size::Bytes;

pub(super) async fn run(cluster: &Cluster, command: &SnapshotCommand) -> Result<Report, Failure> {
    match command {
        SnapshotCommand::Create { names, limit } => create(cluster, names, limit.timeout).await,
        SnapshotCommand::List { volume } => {
            let found = cluster.volume(volume).await?;
            let volumes = cluster.volumes().await?;
            let facts: Vec<_> =
                found.snapshots.iter().map(|it| facts(&found, it, &volumes)).collect();
            let json = json!({ "volume": volume, "snapshots": facts });
            Ok(Report::new(list(&found, &volumes), json))
        }
        SnapshotCommand::Delete { name, force } => delete(cluster, name, *force).await,
        SnapshotCommand::Restore { name } => restore(cluster, name).await,
    }
}

async fn create(
    cluster: &Cluster,
    names: &[SnapshotName],
    limit: Duration,
) -> Result<Report, Failure> {
    let snapshot = check(names)?;
    let stop = interrupt::token()?;
    for name in names {
        // Nothing need be opened to see this.
        let volume = cluster.volume(&name.volume).await?;
        if volume.snapshots.iter().any(|taken| taken.name == name.snapshot) {
            let (volume, snapshot) = (name.volume.clone(), name.snapshot.clone());
            return Err(refused(&torus_metadata::Refusal::SnapshotExists { volume, snapshot }));
        }
    }
    let task = Task::Snapshot { name: snapshot.to_owned(), created_ms: now_ms() };
    let volumes: Vec<String> = names.iter().map(|name| name.volume.clone()).collect();
    storage::perform(cluster, &volumes, &task, Some(limit), &stop).await?;
    let list: Vec<String> = names.iter().map(SnapshotName::to_string).collect();
    let text = match names {
        [name] => format!(
            "Took snapshot {name}.\nNext: 'torusblk nbdserve {name}' serves it read-only, and \
             'torusctl volume clone {name} NAME' makes a volume of it.\n"
        ),
        _ => format!("Took snapshots {}, of one instant.\n", list.join(", ")),
    };
    Ok(Report::new(text, json!({ "created": list })))
}

/// The one name that the snapshots get.
fn check(names: &[SnapshotName]) -> Result<&str, Failure> {
    let first = names.first().ok_or_else(|| Failure::usage("name a snapshot to take"))?;
    if let Some(other) = names.iter().find(|name| name.snapshot != first.snapshot) {
        return Err(Failure::usage(format!(
            "snapshots of one instant have one name, not {} and {}",
            shown(&first.snapshot),
            shown(&other.snapshot)
        )));
    }
    let mut volumes = BTreeSet::new();
    if let Some(twice) = names.iter().find(|name| !volumes.insert(&name.volume)) {
        return Err(Failure::usage(format!("volume {} stands twice", shown(&twice.volume))));
    }
    match rehearsal::snapshot(&first.snapshot) {
        Ok(()) => Ok(&first.snapshot),
        Err(refusal) => {
            Err(Failure::usage(format!("snapshot {}: {refusal}", shown(&first.snapshot))))
        }
    }
}

async fn delete(cluster: &Cluster, name: &SnapshotName, force: bool) -> Result<Report, Failure> {
    let (volume, snapshot) = find_snapshot(cluster, name).await?;
    let (volume, snapshot) = (volume.id, snapshot.id);
    cluster.execute(Command::DeleteSnapshot { volume, snapshot, force }).await?;
    let space = storage::reclaim(cluster, &name.volume).await?;
    let text = format!("Deleted snapshot {name}. {space}\n");
    Ok(Report::new(text, json!({ "deleted": name.to_string() })))
}

async fn restore(cluster: &Cluster, name: &SnapshotName) -> Result<Report, Failure> {
    let (_, snapshot) = find_snapshot(cluster, name).await?;
    let stop = interrupt::token()?;
    let connection = cluster.connect_for_blocks().await?;
    let restoring = stop.run_until_cancelled(storage::restore(&connection, name));
    restoring.await.ok_or_else(interrupted)?.map_err(storage::cannot_open)?;
    // What it held instead.
    storage::reclaim(cluster, &name.volume).await?;
    let text = format!("Volume {} is as it was in {name}.\n", name.volume);
    Ok(Report::new(text, json!({ "restored": name.to_string(), "size": snapshot.size })))
}

/// How many volumes were made from a snapshot and need it.
pub(super) fn clones<'a>(
    volume: &Volume,
    snapshot: &Snapshot,
    volumes: &'a [Volume],
) -> Vec<&'a Volume> {
    let is_clone = |other: &&Volume| {
        other.parent.is_some_and(|it| (it.volume, it.snapshot) == (volume.id, snapshot.id))
    };
    volumes.iter().filter(is_clone).collect()
}

fn list(volume: &Volume, volumes: &[Volume]) -> String {
    let row = |snapshot: &Snapshot| {
        let clones = clones(volume, snapshot, volumes);
        let names: Vec<&str> = clones.iter().map(|clone| &*clone.name).collect();
        vec![
            format!("{}@{}", volume.name, snapshot.name),
            Bytes(snapshot.size).to_string(),
            utc(snapshot.created_ms),
            snapshot.readers.len().to_string(),
            names.join(" "),
        ]
    };
    table(&["SNAPSHOT", ">SIZE", "CREATED", ">READERS", "CLONES"], volume.snapshots.iter().map(row))
}

/// What programs learn of a snapshot.
pub(super) fn facts(volume: &Volume, snapshot: &Snapshot, volumes: &[Volume]) -> Value {
    let clones = clones(volume, snapshot, volumes);
    json!({
        "name": snapshot.name,
        "id": snapshot.id.0,
        "size": snapshot.size,
        "created_ms": snapshot.created_ms,
        "created": utc(snapshot.created_ms),
        "readers": snapshot.readers.len(),
        "clones": clones.iter().map(|clone| &clone.name).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ctl::volume::tests::volume;
    use expect_test::{Expect, expect};
    use torus_blockstore::{BlockIndex, Epoch, INodeIndex};
    use torus_metadata::{Head, LogPosition, Parent, SessionId, SnapshotId};

    /// A volume with two snapshots of 10 GiB.
    pub(crate) fn with_snapshots(id: u64, name: &str) -> Volume {
        let mut volume = volume(id, name, None);
        let position = LogPosition { inode: INodeIndex(1), block: BlockIndex(0), offset: 0 };
        let head =
            Head { volume: volume.id, inode: INodeIndex(2), blocks: 1, epoch: Epoch(1), position };
        let snapshot = |id: u64, name: &str| Snapshot {
            id: SnapshotId(id),
            name: name.to_owned(),
            size: 10 << 30,
            head: head.clone(),
            created_ms: 1_700_000_000_000 + id,
            needs_parent: false,
            readers: BTreeSet::new(),
        };
        volume.snapshots = vec![snapshot(1, "mon"), snapshot(2, "tue")];
        volume.head = Some(head);
        volume
    }

    /// A clone of the first snapshot of a volume.
    pub(in crate::ctl) fn clone_of(parent: &Volume, id: u64, name: &str) -> Volume {
        let snapshot = parent.snapshots[0].id;
        let mut clone = volume(id, name, None);
        clone.parent = Some(Parent { volume: parent.id, snapshot, needed_by_head: true });
        clone
    }

    #[track_caller]
    fn check_of(names: &[&str], expected: Expect) {
        let names: Vec<SnapshotName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let found = match check(&names) {
            Ok(name) => name.to_owned(),
            Err(failure) => {
                assert!(matches!(failure, Failure::Usage(_)));
                failure.line()
            }
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn snapshots_of_one_instant_have_one_name() {
        check_of(&["disk@mon"], expect!["mon"]);
        check_of(&["disk@mon", "log@mon"], expect!["mon"]);
        check_of(
            &["disk@mon", "log@tue"],
            expect![[r#"snapshots of one instant have one name, not "mon" and "tue""#]],
        );
        check_of(&["disk@mon", "disk@mon"], expect![[r#"volume "disk" stands twice"#]]);
        check_of(
            &["disk@a b"],
            expect![[
                r#"snapshot "a b": the snapshot name is not valid: only A-Z, a-z, 0-9, '.', '_' and '-' may stand in it"#
            ]],
        );
        check_of(
            &["disk@-mon"],
            expect![[
                r#"snapshot "-mon": the snapshot name is not valid: it must not start with '-' or '.'"#
            ]],
        );
        check_of(&[], expect!["name a snapshot to take"]);
    }

    #[test]
    fn snapshots_are_listed_oldest_first() {
        let mut disk = with_snapshots(1, "disk");
        disk.snapshots[1].readers.insert(SessionId(4));
        let volumes = [disk.clone(), clone_of(&disk, 2, "copy"), clone_of(&disk, 3, "other")];
        expect![[r#"
            SNAPSHOT      SIZE  CREATED               READERS  CLONES
            disk@mon  10.0 GiB  2023-11-14T22:13:20Z        0  copy other
            disk@tue  10.0 GiB  2023-11-14T22:13:20Z        1
        "#]]
        .assert_eq(&list(&disk, &volumes));
        expect![[r#"{"clones":["copy","other"],"created":"2023-11-14T22:13:20Z","created_ms":1700000000001,"id":1,"name":"mon","readers":0,"size":10737418240}"#]].assert_eq(&facts(&disk, &disk.snapshots[0], &volumes).to_string());
    }
}
