//! A volume that exists and gets what changed.

mod compare;

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use torus_metadata::{Head, Snapshot, Volume as Metadata};
use torus_volume::{OpenError, Volume};

use crate::connection::Connection;
use crate::ctl::cluster::Cluster;
use crate::ctl::storage::{self, interrupted};
use crate::failure::Failure;
use crate::name::SnapshotName;
use crate::stream::{Header, Moment};

/// How long a volume that was given up may stay locked by the session that was.
const RELEASE: Duration = Duration::from_secs(15);
const RELEASE_POLL: Duration = Duration::from_millis(250);

/// A volume that gets what changed since its newest snapshot.
pub(super) struct Old<'a> {
    cluster: &'a Cluster,
    name: &'a str,
    base: Snapshot,
}

impl<'a> Old<'a> {
    /// Finds it; its newest snapshot must be the one that the stream goes on from.
    pub(super) async fn find(
        cluster: &'a Cluster,
        name: &'a str,
        header: &Header,
        from: &Moment,
    ) -> Result<Self, Failure> {
        let volume = cluster.volume(name).await?;
        let base = base(&volume, header, from).map_err(Failure::failed)?.clone();
        Ok(Self { cluster, name, base })
    }

    /// Has it changed and takes the snapshot of that. If any of that fails, the volume is taken back
    /// to its newest snapshot. With `force` that is done first, whatever was written since.
    pub(super) async fn change<T>(
        &self,
        to: &Moment,
        force: bool,
        stop: &CancellationToken,
        work: impl AsyncFnOnce(&Volume) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let connection = self.cluster.connect_for_blocks().await?;
        let opening = stop.run_until_cancelled(self.open(&connection, force));
        let volume = opening.await.ok_or_else(interrupted)??;
        let working = async {
            if volume.size() != to.size {
                volume.resize(to.size, true).await?;
            }
            let done = work(&volume).await?;
            volume.flush().await?;
            Ok(done)
        };
        let result = stop.run_until_cancelled(working).await.ok_or_else(interrupted);
        let result = match result.and_then(|result| result) {
            // From here on it is too late to interrupt.
            Ok(done) => volume
                .snapshot(&to.name, to.created_ms)
                .await
                .map(|_| done)
                .map_err(Failure::failed),
            Err(failure) => Err(failure),
        };
        match result {
            Ok(done) => {
                volume.close().await?;
                Ok(done)
            }
            Err(failure) => {
                storage::abandon(&volume).await;
                Err(self.take_back(&connection, failure).await)
            }
        }
    }

    /// Opens the volume as the base was.
    async fn open(&self, connection: &Connection, force: bool) -> Result<Volume, Failure> {
        if force {
            let restored = storage::restore(connection, &self.base_name()).await;
            restored.map_err(storage::cannot_open)?;
        }
        let volume = storage::open(connection, self.name).await.map_err(storage::cannot_open)?;
        match self.check(connection, &volume).await {
            Ok(()) => Ok(volume),
            Err(failure) => {
                storage::abandon(&volume).await;
                Err(failure)
            }
        }
    }

    /// Refuses a volume that is not as the base was.
    async fn check(&self, connection: &Connection, volume: &Volume) -> Result<(), Failure> {
        let base = self.base_name();
        // By now nobody else can write it, and what the former writer left was recovered.
        let now = self.cluster.volume(self.name).await?;
        if now.snapshots.last().is_none_or(|newest| newest.id != self.base.id) {
            return Err(Failure::failed(format!(
                "somebody deleted or took snapshots beside {base}"
            )));
        }
        if has_head_of(&now, &self.base) {
            return Ok(());
        }
        // Garbage collection moves heads, too.
        let snapshot = storage::open_snapshot(connection, &base).await?;
        let result = compare::is_same(&snapshot, volume).await;
        storage::abandon(&snapshot).await;
        match result? {
            true => Ok(()),
            false => Err(Failure::failed(format!(
                "volume {} was written since its snapshot {base}; --force takes it back to that first",
                self.name,
            ))),
        }
    }

    async fn take_back(&self, connection: &Connection, failure: Failure) -> Failure {
        let base = self.base_name();
        let restoring = tokio::time::timeout(RELEASE, async {
            while let Err(error) = storage::restore(connection, &base).await {
                if !matches!(error, OpenError::InUse { .. }) {
                    return Err(error);
                }
                tokio::time::sleep(RELEASE_POLL).await;
            }
            Ok(())
        });
        match restoring.await {
            Ok(Ok(())) => failure,
            Ok(Err(_)) | Err(_) => Failure::failed(format!(
                "{}; volume {} could not be taken back to where it was: 'torusctl snapshot restore \
                 {base}' does it",
                failure.line(),
                self.name,
            )),
        }
    }

    fn base_name(&self) -> SnapshotName {
        SnapshotName { volume: self.name.to_owned(), snapshot: self.base.name.clone() }
    }
}

/// The newest snapshot, if it is the one that the stream goes on from: by its name, the moment when
/// it was asked for and its size, which imports keep.
fn base<'a>(volume: &'a Metadata, header: &Header, from: &Moment) -> Result<&'a Snapshot, String> {
    let wanted = format!("{}@{}", header.volume, from.name);
    let name = &volume.name;
    if volume.snapshots.iter().any(|snapshot| snapshot.name == header.to.name) {
        return Err(format!("volume {name} has a snapshot {} already", header.to.name));
    }
    let Some(newest) = volume.snapshots.last() else {
        return Err(format!(
            "the stream has what changed since {wanted}, and volume {name} has no snapshot; import \
             a full stream of {wanted} first"
        ));
    };
    let found = (&newest.name, newest.created_ms, newest.size);
    if found == (&from.name, from.created_ms, from.size) {
        return Ok(newest);
    }
    let another = if newest.name == from.name { ", another one of that name" } else { "" };
    Err(format!(
        "the stream has what changed since {wanted}, and the newest snapshot of volume {name} is {}\
         {another}",
        newest.name
    ))
}

/// Whether a volume's head, once all of its log was recovered, is still that of a snapshot.
fn has_head_of(volume: &Metadata, snapshot: &Snapshot) -> bool {
    let inode = |head: &Head| (head.volume, head.inode, head.blocks);
    let head = volume.head.as_ref().map(inode);
    volume.size == snapshot.size && head == Some(inode(&snapshot.head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::snapshot::tests::with_snapshots;
    use crate::ctl::volume::tests::volume;
    use expect_test::{Expect, expect};
    use torus_blockstore::INodeIndex;
    use uuid::Uuid;

    fn moment(snapshot: &Snapshot) -> Moment {
        let Snapshot { id, name, size, created_ms, .. } = snapshot.clone();
        Moment { id: id.0, name, created_ms, size }
    }

    #[track_caller]
    fn check(volume: &Metadata, from: &Moment, to: &str, expected: Expect) {
        let to = Moment { id: 9, name: to.to_owned(), ..from.clone() };
        let header = Header {
            cluster: Uuid::nil(),
            volume_id: 3,
            volume: "disk".to_owned(),
            to,
            from: Some(from.clone()),
        };
        let found = base(volume, &header, from).map(|base| format!("goes on from {}", base.name));
        expected.assert_eq(&found.unwrap_or_else(|error| error));
    }

    #[test]
    fn only_the_newest_snapshot_can_be_the_base() {
        let disk = with_snapshots(1, "copy");
        let [mon, tue] = [&disk.snapshots[0], &disk.snapshots[1]].map(moment);
        check(&disk, &tue, "wed", expect!["goes on from tue"]);
        check(
            &disk,
            &mon,
            "wed",
            expect![
                "the stream has what changed since disk@mon, and the newest snapshot of volume copy is tue"
            ],
        );
        check(&disk, &mon, "tue", expect!["volume copy has a snapshot tue already"]);
        check(
            &disk,
            &Moment { created_ms: 5, ..tue.clone() },
            "wed",
            expect![
                "the stream has what changed since disk@tue, and the newest snapshot of volume copy is tue, another one of that name"
            ],
        );
        check(
            &disk,
            &Moment { size: 4096, ..tue.clone() },
            "wed",
            expect![
                "the stream has what changed since disk@tue, and the newest snapshot of volume copy is tue, another one of that name"
            ],
        );
        check(
            &volume(1, "copy", None),
            &mon,
            "tue",
            expect![
                "the stream has what changed since disk@mon, and volume copy has no snapshot; import a full stream of disk@mon first"
            ],
        );
    }

    #[test]
    fn a_volume_that_was_written_is_not_as_its_snapshot() {
        let mut disk = with_snapshots(1, "disk");
        let tue = disk.snapshots[1].clone();
        assert!(has_head_of(&disk, &tue));
        disk.size += 4096;
        assert!(!has_head_of(&disk, &tue), "it was resized");
        disk.size = tue.size;
        disk.head.as_mut().unwrap().inode = INodeIndex(77);
        assert!(!has_head_of(&disk, &tue), "it has another checkpoint");
    }
}
