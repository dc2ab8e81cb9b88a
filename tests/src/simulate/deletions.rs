//! Deleting: a volume that nobody uses goes, with its snapshots, and another of its name comes. Its
//! blocks must go too, and nothing of it may show in the new one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use torus_metadata::{Command, Error};

use super::chain;
use super::cluster::{Client, Cluster, Tracked};
use super::oracle::SECTOR;
use super::workload::User;

/// By then every command has arrived, however late.
const LATEST: Duration = Duration::from_secs(30);

impl User {
    /// Deletes the volume, unless it is in use or has clones.
    pub(crate) async fn delete(&self, client: &Client) {
        let trace = &self.cluster.context.trace;
        let Tracked { name, history, .. } = &self.volume;
        let Some(present) = self.cluster.present(&self.volume).await else { return };
        let force = self.chance.happens(700_000);
        let command = Command::DeleteVolume { volume: present.id, force };
        let roof = *self.chance.pick(&[20, 3000, 60_000]);
        history.deleting();
        let deleting = client.execute_until_answered(command);
        let result = timeout(self.chance.millis(1..roof), deleting).await;
        trace.note("delete", &[client.process.number, u64::from(matches!(result, Ok(Ok(_))))]);
        match result {
            Ok(Ok(_)) => {
                trace.sometimes("a volume was deleted");
                if self.cluster.present(&self.volume).await.is_some() {
                    trace.violation(format!("{name} was deleted and is still there"));
                }
                self.create_anew(client).await;
            }
            Ok(Err(error)) => {
                history.not_deleted();
                trace.sometimes("a deletion was refused");
                if !matches!(error, Error::Refused(_)) {
                    trace.violation(format!("{name}: deleting: {}", chain(&error)));
                }
            }
            Err(_) => {
                history.deletion_is_loose(LATEST);
                trace.sometimes("a client died while it deleted");
            }
        }
        client.kill();
    }

    /// Creates the volume that is not there any more.
    pub(crate) async fn create_anew(&self, client: &Client) {
        let trace = &self.cluster.context.trace;
        let Tracked { name, history, .. } = &self.volume;
        if !history.may_be_gone() {
            return trace.violation(format!("{name} is gone"));
        }
        history.deleting();
        if self.cluster.adopt(&self.volume).await {
            return;
        }
        let size = history.sectors() * SECTOR;
        let command = Command::CreateVolume { name: name.clone(), size, spec: None };
        let creating = client.execute_until_answered(command);
        let result = timeout(self.chance.millis(100..30_000), creating).await;
        trace.note("create anew", &[client.process.number, result.is_ok().into()]);
        // Whether or not the answer came; else it may still be created later.
        self.cluster.adopt(&self.volume).await;
    }
}

/// Waits until no deletion is under way, and sees which volumes there are.
pub(crate) async fn are_over(cluster: &Arc<Cluster>) -> Result<(), String> {
    let volumes = cluster.tracked();
    if volumes.iter().any(|volume| volume.history.is_doomed()) {
        sleep(LATEST).await;
    }
    for volume in &volumes {
        if cluster.present(volume).await.is_none() {
            if !volume.history.may_be_gone() {
                return Err(format!("{} is gone", volume.name));
            }
            cluster.adopt(volume).await;
        }
        volume.history.not_deleted();
    }
    Ok(())
}
