//! Changes of volumes: names, sizes, clones.

use std::time::Duration;

use serde_json::json;
use torus_metadata::{Command, Error, Outcome, Task};

use super::{check, check_name, show};
use crate::ctl::cluster::Cluster;
use crate::ctl::progress::Progress;
use crate::ctl::report::Report;
use crate::ctl::storage::{self, find_snapshot};
use crate::failure::Failure;
use crate::interrupt;
use crate::name::Source;
use crate::size::Bytes;

pub(super) async fn rename(cluster: &Cluster, name: &str, to: &str) -> Result<Report, Failure> {
    check_name(to)?;
    let rename = Command::RenameVolume { name: name.to_owned(), to: to.to_owned() };
    cluster.execute(rename).await?;
    let text = format!(
        "Volume {name} is now {to}. A program that has it in use goes on under the old name.\n"
    );
    Ok(Report::new(text, json!({ "renamed": name, "name": to })))
}

pub(super) async fn clone(
    cluster: &Cluster,
    source: &Source,
    name: &str,
) -> Result<Report, Failure> {
    let source = match source {
        Source::Snapshot(source) => source,
        Source::Volume(volume) => {
            return Err(Failure::usage(format!(
                "a clone is made from a snapshot: 'torusctl snapshot create {volume}@NAME', then \
                 'torusctl volume clone {volume}@NAME {name}'"
            )));
        }
    };
    check_name(name)?;
    let (volume, snapshot) = find_snapshot(cluster, source).await?;
    let (volume, snapshot) = (volume.id, snapshot.id);
    let clone = Command::CloneVolume { volume, snapshot, name: name.to_owned() };
    let Outcome::Volume(made) = cluster.execute(clone).await?.outcome else {
        return Err(Error::Protocol { what: "a new volume" }.into());
    };
    let text = format!(
        "Created volume {name} of {}, which begins as {source}.\n\
         'torusctl volume flatten {name}' makes it independent of that.\n",
        Bytes(made.size),
    );
    let volumes = cluster.volumes().await?;
    Ok(Report::new(text, show::facts(&made, &volumes)))
}

pub(super) async fn flatten(cluster: &Cluster, name: &str) -> Result<Report, Failure> {
    let volume = cluster.volume(name).await?;
    if !volume.parent.is_some_and(|parent| parent.needed_by_head) {
        let text = format!("Volume {name} shares nothing with another volume.\n");
        return Ok(Report::new(text, json!({ "flattened": name, "seconds": 0 })));
    }
    let stop = interrupt::token()?;
    let progress = Progress::begin(format!("flattening {name}"));
    // However long it takes: it is copying.
    let names = [name.to_owned()];
    storage::perform(cluster, &names, &Task::Flatten, None, &stop).await?;
    let seconds = progress.end().as_secs_f64();
    let text = format!("Volume {name} has all of its data to itself, after {seconds:.1} s.\n");
    let kept = cluster.volume(name).await?.parent.is_some();
    let note = "Its snapshots still share data with the volume that it was made from.\n";
    let text = if kept { text + note } else { text };
    Ok(Report::new(text, json!({ "flattened": name, "seconds": seconds, "snapshots_share": kept })))
}

pub(super) async fn resize(
    cluster: &Cluster,
    name: &str,
    size: Bytes,
    discard: bool,
    limit: Duration,
) -> Result<Report, Failure> {
    let size = check(name, size)?;
    let former = cluster.volume(name).await?.size;
    if size != former {
        let (names, task) = ([name.to_owned()], Task::Resize { size, discard });
        let stop = interrupt::token()?;
        storage::perform(cluster, &names, &task, Some(limit), &stop).await?;
    }
    let text = format!(
        "Volume {name} has {}, and had {}. NBD clients see it when they connect anew.\n",
        Bytes(size),
        Bytes(former),
    );
    Ok(Report::new(text, json!({ "name": name, "size": size, "former_size": former })))
}
