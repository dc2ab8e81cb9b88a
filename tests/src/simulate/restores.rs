//! Restoring: a volume becomes what a snapshot of it holds, while nobody uses it. Whoever does it may
//! die at any moment; then it has become that, or is as it was.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use torus_metadata::Error as MetadataError;
use torus_volume::OpenError;

use super::chance::Chance;
use super::cluster::{Client, Cluster, Tracked};
use super::oracle::{Origin, Snapshot};
use super::workload::User;
use super::{chain, check};

/// How long restoring may take when all is well.
const RESTORE_LIMIT: Duration = Duration::from_secs(120);

/// What it shows of restores that a life begins so.
pub(crate) fn event(origin: Origin) -> Option<&'static str> {
    match origin {
        Origin::Former | Origin::Either => None,
        Origin::Restored => Some("a volume was what had been restored"),
        Origin::RestoredUnheard => Some("a restore took effect that nobody heard of"),
        Origin::NotRestored => Some("a restore that was broken off had no effect"),
    }
}

/// Whether the metadata may have been told to restore, or may yet be.
fn is_open(error: &OpenError) -> bool {
    matches!(error, OpenError::Metadata(MetadataError::Unavailable { .. }))
}

fn draw(volume: &Tracked, chance: &Chance) -> Option<Snapshot> {
    let snapshots = volume.history.snapshots();
    (!snapshots.is_empty()).then(|| chance.pick(&snapshots).clone())
}

impl User {
    /// Restores a snapshot, if there is one.
    pub(crate) async fn restore(&self, client: &Client) {
        let trace = &self.cluster.context.trace;
        let Tracked { name, history, .. } = &self.volume;
        let Some(present) = self.cluster.present(&self.volume).await else { return client.kill() };
        let Some(snapshot) = draw(&self.volume, &self.chance) else { return client.kill() };
        // It takes a few round trips, and dies in the midst of them half of the time.
        let roof = *self.chance.pick(&[300, 3000, 60_000, 60_000]);
        history.restoring(&snapshot);
        let restoring = client.restore(&present.name, &snapshot.name);
        let result = timeout(self.chance.millis(10..roof), restoring).await;
        match &result {
            Ok(Ok(())) => {
                history.restored();
                trace.sometimes("a snapshot was restored");
            }
            Ok(Err(error)) => {
                if !is_open(error) {
                    history.not_restored();
                }
                if history.has(&snapshot) && matches!(error, OpenError::NoSuchSnapshot { .. }) {
                    trace.violation(format!("{name}: restoring: {}", chain(error)));
                }
                trace.sometimes("a restore was refused or failed");
                if trace.told() {
                    println!("{}", chain(error));
                }
            }
            Err(_) => trace.sometimes("a client died while it restored"),
        }
        let is_done = matches!(result, Ok(Ok(())));
        trace.note("restore", &[client.process.number, is_done.into(), result.is_err().into()]);
        client.kill();
    }
}

/// Restores a snapshot now that nothing is wrong any more, and holds the volume against it.
pub(crate) async fn one_more(cluster: &Arc<Cluster>, volume: &Tracked) -> Result<(), String> {
    let name = &volume.name;
    let chance = Chance::new(cluster.context.seed, &format!("last restore of {name}"));
    let Some(snapshot) = draw(volume, &chance) else { return Ok(()) };
    let Some(present) = cluster.present(volume).await else { return Ok(()) };
    let began = Instant::now();
    volume.history.restoring(&snapshot);
    loop {
        let client = cluster.client(volume.host);
        match timeout(RESTORE_LIMIT, client.restore(&present.name, &snapshot.name)).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) if began.elapsed() >= RESTORE_LIMIT => {
                return Err(format!("{name} cannot be restored: {}", chain(&error)));
            }
            Ok(Err(_)) => sleep(Duration::from_millis(500)).await,
            Err(_) => return Err(format!("{name} is not restored")),
        }
    }
    volume.history.restored();
    cluster.context.trace.sometimes("a snapshot was restored at rest");
    check::volume_serves(cluster, volume).await
}
