//! `torusctl volume export`: a volume or a snapshot becomes an image or a stream.
//!
//! A file gets its name when all of it is on the disk, so that there are no half files. Holes of the
//! volume are holes of the file.

mod content;
pub(super) mod destination;

use std::pin::pin;
use std::time::Duration;

use futures::TryStreamExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use torus_metadata::{Snapshot, Volume as Metadata};
use torus_volume::{OpenError, Volume};

use super::arguments::{Export, Format};
use super::cluster::Cluster;
use super::progress::Progress;
use super::report::Report;
use super::storage::{self, find_snapshot, interrupted};
use super::transfer::{Tally, is_standard};
use crate::clock::now_ms;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::interrupt;
use crate::name::{SnapshotName, Source, shown};
use crate::size::Bytes;
use crate::stream::{Header, Moment};
use destination::{Destination, Place};

pub(super) async fn run(cluster: &Cluster, arguments: &Export) -> Result<Report, Failure> {
    let wanted = Wanted::check(arguments).map_err(Failure::usage)?;
    let stop = interrupt::token()?;
    // Before anything is opened: it may not be possible to write at all.
    let place = Place::check(&arguments.file, arguments.force)?;
    let plan = Plan::read(cluster, wanted).await?;
    let connection = cluster.connect_for_blocks().await?;
    let opened = stop.run_until_cancelled(Opened::open(&connection, &plan));
    let opened = opened.await.ok_or_else(interrupted)??;
    let progress = Progress::begin(format!("exporting {}", arguments.source));
    let result = transfer(&connection, &plan, &opened, place, &progress, &stop).await;
    opened.close().await;
    let tally = result?;
    let elapsed = progress.end();
    let report = report(arguments, opened.size(), tally, elapsed);
    Ok(if is_standard(&arguments.file) { report.aside() } else { report })
}

fn report(arguments: &Export, size: u64, tally: Tally, elapsed: Duration) -> Report {
    let source = &arguments.source;
    let mut json = tally.facts(size, elapsed);
    json["exported"] = source.to_string().into();
    json["since"] = json!(arguments.since);
    json["file"] = json!(arguments.file);
    let (size, sentence) = (Bytes(size), tally.sentence(elapsed));
    Report::new(format!("Exported {source} of {size}: {sentence}.\n"), json)
}

/// What is asked for, once it makes sense.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Full { source: Source, format: Format },
    Changes { since: SnapshotName, to: SnapshotName },
}

impl Wanted {
    fn check(arguments: &Export) -> Result<Self, String> {
        let source = arguments.source.clone();
        let Some(since) = &arguments.since else {
            return Ok(Self::Full { source, format: arguments.format.unwrap_or(Format::Raw) });
        };
        if arguments.format == Some(Format::Raw) {
            return Err(
                "what changed since a snapshot is no image; leave out --format raw".to_owned()
            );
        }
        let Source::Snapshot(to) = source else {
            return Err(format!(
                "--since needs a snapshot to end with: 'torusctl snapshot create {source}@NAME', then \
                 export {source}@NAME"
            ));
        };
        // Who writes the volume's name before it means the same.
        let since = since.strip_prefix(&format!("{}@", to.volume)).unwrap_or(since);
        if since.is_empty() || since.contains('@') {
            return Err(format!(
                "--since {} names no snapshot of volume {}",
                shown(since),
                to.volume
            ));
        }
        let since = SnapshotName { volume: to.volume.clone(), snapshot: since.to_owned() };
        Ok(Self::Changes { since, to })
    }
}

/// What is asked for, with what the metadata knows of it.
struct Plan {
    source: Source,
    format: Format,
    volume: Metadata,
    to: Option<Snapshot>,
    from: Option<(SnapshotName, Snapshot)>,
}

impl Plan {
    async fn read(cluster: &Cluster, wanted: Wanted) -> Result<Self, Failure> {
        match wanted {
            Wanted::Full { source: Source::Volume(name), format } => {
                let volume = cluster.volume(&name).await?;
                Ok(Self { source: Source::Volume(name), format, volume, to: None, from: None })
            }
            Wanted::Full { source: Source::Snapshot(name), format } => {
                let (volume, to) = find_snapshot(cluster, &name).await?;
                let source = Source::Snapshot(name);
                Ok(Self { source, format, volume, to: Some(to), from: None })
            }
            Wanted::Changes { since, to: name } => {
                let (_, from) = find_snapshot(cluster, &since).await?;
                let (volume, to) = find_snapshot(cluster, &name).await?;
                if from.id >= to.id {
                    return Err(Failure::usage(format!("{since} is not older than {name}")));
                }
                let (source, from) = (Source::Snapshot(name), Some((since, from)));
                Ok(Self { source, format: Format::Stream, volume, to: Some(to), from })
            }
        }
    }

    /// The header of a stream of this.
    fn header(&self, connection: &Connection, size: u64) -> Header {
        let moment = |snapshot: &Snapshot| Moment {
            id: snapshot.id.0,
            name: snapshot.name.clone(),
            created_ms: snapshot.created_ms,
            size: snapshot.size,
        };
        let now = || Moment { id: 0, name: String::new(), created_ms: now_ms(), size };
        Header {
            cluster: connection.global.cluster,
            volume_id: self.volume.id.get(),
            volume: self.volume.name.clone(),
            to: self.to.as_ref().map_or_else(now, moment),
            from: self.from.as_ref().map(|(_, snapshot)| moment(snapshot)),
        }
    }
}

/// What is read.
struct Opened {
    to: Volume,
    from: Option<Volume>,
}

impl Opened {
    async fn open(connection: &Connection, plan: &Plan) -> Result<Self, Failure> {
        let to = match &plan.source {
            Source::Snapshot(name) => storage::open_snapshot(connection, name).await?,
            Source::Volume(name) => match storage::open(connection, name).await {
                Ok(volume) => volume,
                Err(error @ OpenError::InUse { .. }) => {
                    return Err(Failure::failed(format!(
                        "{error}; export a snapshot: 'torusctl snapshot create {name}@NAME', then \
                         export {name}@NAME"
                    )));
                }
                Err(error) => return Err(error.into()),
            },
        };
        let from = match &plan.from {
            None => None,
            Some((name, _)) => match storage::open_snapshot(connection, name).await {
                Ok(from) => Some(from),
                Err(error) => {
                    storage::abandon(&to).await;
                    return Err(error.into());
                }
            },
        };
        Ok(Self { to, from })
    }

    fn size(&self) -> u64 {
        self.to.size()
    }

    /// Nothing was written, so nothing can be lost.
    async fn close(&self) {
        storage::abandon(&self.to).await;
        if let Some(from) = &self.from {
            storage::abandon(from).await;
        }
    }
}

async fn transfer(
    connection: &Connection,
    plan: &Plan,
    opened: &Opened,
    place: Place,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Tally, Failure> {
    let size = opened.size();
    progress.expect(size);
    let header = (plan.format == Format::Stream).then(|| plan.header(connection, size));
    let writing = async {
        let mut destination = Destination::begin(place, header, size).await?;
        let mut tally = Tally::default();
        let mut chunks = pin!(content::chunks(&opened.to, opened.from.as_ref()));
        while let Some(batch) = chunks.try_next().await? {
            for chunk in batch {
                progress.reach(chunk.end());
                if destination.write(&chunk).await? {
                    tally.count(&chunk);
                }
            }
        }
        Ok::<_, Failure>((destination.end().await?, tally))
    };
    let (file, tally) = stop.run_until_cancelled(writing).await.ok_or_else(interrupted)??;
    if let Some(file) = file {
        file.keep()?;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests;
