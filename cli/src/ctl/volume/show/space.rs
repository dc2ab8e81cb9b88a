//! What a volume takes of the cluster's space, as its newest checkpoint says.

use std::time::Duration;

use serde_json::{Value, json};
use torus_metadata::Volume;
use torus_volume::{Figures, SnapshotFigures, figures, snapshot_figures};

use crate::clock::age;
use crate::ctl::cluster::Cluster;
use crate::failure::Failure;
use crate::size::Bytes;

/// How long the peers may take to give out the checkpoints.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of the volume, and of each of its snapshots.
pub(super) struct Space {
    volume: Figures,
    snapshots: Vec<SnapshotFigures>,
}

pub(super) async fn read(cluster: &Cluster, volume: &Volume) -> Result<Space, Failure> {
    let reading = async {
        let connection = cluster.connect_for_blocks().await?;
        let figures = figures(&connection.services, volume).await?;
        let snapshots = snapshot_figures(&connection.services, volume).await?;
        Ok(Space { volume: figures, snapshots })
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.unwrap_or_else(|_| {
        Err(Failure::failed("the peers that have its checkpoint do not answer"))
    })
}

impl Space {
    fn own(&self, volume: &Volume, name: &str) -> Option<u64> {
        let id = volume.snapshots.iter().find(|snapshot| snapshot.name == name)?.id;
        self.snapshots.iter().find(|figures| figures.id == id).map(|figures| figures.own)
    }
}

/// The lines of `volume info`.
pub(super) fn describe(volume: &Volume, space: &Space) -> String {
    let Figures { mapped, stored, garbage, in_parents, inodes, made_ms, open_log, .. } =
        space.volume;
    let amplification = space.volume.write_amplification();
    let amplification = amplification.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let mut text = format!(
        "Mapped: {}\nStored: {} in each copy, {} of it garbage, and {} of map\n\
         Shared with parents: {}\nWrite amplification: {amplification}\n",
        Bytes(mapped),
        Bytes(stored),
        Bytes(garbage),
        Bytes(inodes),
        Bytes(in_parents),
    );
    if made_ms > 0 {
        let (age, log) = (age(made_ms), Bytes(open_log));
        text.push_str(&format!("Checkpoint made: {age} ago, at most {log} of log behind it\n"));
    }
    for snapshot in &volume.snapshots {
        if let Some(own) = space.own(volume, &snapshot.name) {
            text.push_str(&format!("Snapshot {} alone: {}\n", snapshot.name, Bytes(own)));
        }
    }
    text
}

/// What programs learn; `null` if it cannot be read.
pub(super) fn facts(volume: &Volume, space: Option<&Space>) -> Value {
    let Some(space) = space else { return Value::Null };
    let figures = &space.volume;
    let snapshots = volume.snapshots.iter();
    let snapshots = snapshots
        .map(|snapshot| json!({ "name": snapshot.name, "own": space.own(volume, &snapshot.name) }));
    json!({
        "mapped": figures.mapped,
        "stored": figures.stored,
        "garbage": figures.garbage,
        "in_parents": figures.in_parents,
        "inodes": figures.inodes,
        "written": figures.written,
        "amplified": figures.amplified,
        "made_ms": figures.made_ms,
        "open_log": figures.open_log,
        "write_amplification": figures.write_amplification(),
        "snapshots": snapshots.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::snapshot::tests::with_snapshots;
    use expect_test::expect;

    #[test]
    fn space_is_told_for_people_and_programs() {
        let disk = with_snapshots(1, "disk");
        let own = |id, own| SnapshotFigures { id, own };
        let space = Space {
            volume: Figures {
                mapped: 3 << 30,
                stored: 4 << 30,
                garbage: 1 << 30,
                in_parents: 0,
                inodes: 12 << 20,
                written: 1000,
                amplified: 1234,
                made_ms: 0,
                open_log: 0,
            },
            snapshots: vec![own(disk.snapshots[0].id, 5 << 20), own(disk.snapshots[1].id, 0)],
        };
        expect![[r#"
            Mapped: 3.0 GiB
            Stored: 4.0 GiB in each copy, 1.0 GiB of it garbage, and 12.0 MiB of map
            Shared with parents: 0 B
            Write amplification: 1.23
            Snapshot mon alone: 5.0 MiB
            Snapshot tue alone: 0 B
        "#]]
        .assert_eq(&describe(&disk, &space));
        expect![[r#"{"amplified":1234,"garbage":1073741824,"in_parents":0,"inodes":12582912,"made_ms":0,"mapped":3221225472,"open_log":0,"snapshots":[{"name":"mon","own":5242880},{"name":"tue","own":0}],"stored":4294967296,"write_amplification":1.234,"written":1000}"#]].assert_eq(&facts(&disk, Some(&space)).to_string());
        assert_eq!(facts(&disk, None), Value::Null);
    }
}
