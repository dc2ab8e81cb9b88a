//! `torusctl volume import`: an image becomes a volume, a stream a volume or the next snapshot of
//! one.
//!
//! A new volume is filled as `NAME.importing-` and eight digits and gets its own name at the very
//! end, so that a volume that looks whole is whole. What fails or is interrupted is deleted; what was
//! killed stays under that name, which says what it is, until somebody deletes it.
//!
//! A volume gets what changed only when it is as the base was, and is taken back to that when the
//! stream turns out to be damaged or is interrupted.

mod image;
mod new;
mod old;

use std::pin::pin;
use std::time::Duration;

use futures::{Stream, TryStreamExt, stream};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use torus_volume::{Error, Volume};

use super::arguments::{Import, Layers};
use super::cluster::Cluster;
use super::progress::Progress;
use super::rehearsal;
use super::report::Report;
use super::storage::interrupted;
use super::transfer::{IN_FLIGHT, Tally};
use super::volume::{check, spec};
use crate::failure::Failure;
use crate::interrupt;
use crate::name::shown;
use crate::size::Bytes;
use crate::stream::{Chunk, Header, Moment};
use image::{Image, Incoming, Input};
use new::New;
use old::Old;

pub(super) use new::is_temporary;

/// What came of an import.
struct Imported {
    size: u64,
    tally: Tally,
    snapshot: Option<String>,
}

pub(super) async fn run(cluster: &Cluster, arguments: &Import) -> Result<Report, Failure> {
    let stop = interrupt::token()?;
    let path = arguments.file.clone();
    let opening = async {
        // A pipe that nobody writes to yet is waited for.
        let opened = tokio::task::spawn_blocking(move || Input::open(&path)).await?;
        opened?.input().await
    };
    let input = stop.run_until_cancelled(opening).await.ok_or_else(interrupted)??;
    let progress = Progress::begin(format!("importing {}", arguments.name));
    let imported = match input {
        Input::Image(image) => from_image(cluster, arguments, image, &progress, &stop).await,
        Input::Stream(stream) => match stream.header().from.clone() {
            None => from_full(cluster, arguments, *stream, &progress, &stop).await,
            Some(from) => from_changes(cluster, arguments, *stream, &from, &progress, &stop).await,
        },
    }?;
    let elapsed = progress.end();
    Ok(report(&arguments.name, &imported, elapsed))
}

fn report(name: &str, imported: &Imported, elapsed: Duration) -> Report {
    let mut json = imported.tally.facts(imported.size, elapsed);
    json["volume"] = name.into();
    json["snapshot"] = json!(imported.snapshot);
    let what = match &imported.snapshot {
        Some(snapshot) => format!("{name}@{snapshot}"),
        None => name.to_owned(),
    };
    let (size, sentence) = (Bytes(imported.size), imported.tally.sentence(elapsed));
    Report::new(format!("Imported {what} of {size}: {sentence}.\n"), json)
}

async fn from_image(
    cluster: &Cluster,
    arguments: &Import,
    image: Image,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Imported, Failure> {
    refuse_force(arguments)?;
    let size = size_of(image.size, arguments.size).map_err(Failure::usage)?;
    let size = check(&arguments.name, size)?;
    let spec = spec(cluster, &arguments.layers).await?;
    let new = New::create(cluster, &arguments.name, size, spec).await?;
    progress.expect(size);
    let chunks = image.chunks(size).map_err(Failure::failed);
    let work = async |volume: &Volume| write(volume, chunks, progress).await;
    let tally = new.fill(None, stop, work).await?;
    Ok(Imported { size, tally, snapshot: None })
}

/// The size of the volume for an image of `image` bytes.
fn size_of(image: Option<u64>, wanted: Option<Bytes>) -> Result<Bytes, String> {
    match (image, wanted) {
        (Some(image), Some(Bytes(wanted))) if wanted < image => Err(format!(
            "--size {} is less than the image has, {image} bytes; leave it out",
            Bytes(wanted)
        )),
        (_, Some(wanted)) => Ok(wanted),
        (Some(0), None) => Err("the image is empty; give a --size".to_owned()),
        (Some(image), None) => Ok(Bytes(image)),
        (None, None) => Err("what comes through a pipe has no size; give a --size".to_owned()),
    }
}

async fn from_full(
    cluster: &Cluster,
    arguments: &Import,
    stream: Incoming,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Imported, Failure> {
    refuse_force(arguments)?;
    refuse_size(arguments)?;
    let Header { to, .. } = stream.header().clone();
    let size = check(&arguments.name, Bytes(to.size))?;
    check_snapshot(&to)?;
    let snapshot = (!to.name.is_empty()).then_some(&to);
    let spec = spec(cluster, &arguments.layers).await?;
    let new = New::create(cluster, &arguments.name, size, spec).await?;
    progress.expect(size);
    let work = async |volume: &Volume| write(volume, chunks(stream), progress).await;
    let tally = new.fill(snapshot, stop, work).await?;
    Ok(Imported { size, tally, snapshot: snapshot.map(|to| to.name.clone()) })
}

async fn from_changes(
    cluster: &Cluster,
    arguments: &Import,
    stream: Incoming,
    from: &Moment,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Imported, Failure> {
    refuse_size(arguments)?;
    if arguments.layers != Layers::default() {
        return Err(Failure::usage(
            "the stream belongs to a volume that exists; leave out --block-spec and --replication",
        ));
    }
    let header = stream.header().clone();
    let size = check(&arguments.name, Bytes(header.to.size))?;
    check_snapshot(&header.to)?;
    let old = Old::find(cluster, &arguments.name, &header, from).await?;
    progress.expect(size);
    let work = async |volume: &Volume| write(volume, chunks(stream), progress).await;
    let tally =
        old.change(&Moment { size, ..header.to.clone() }, arguments.force, stop, work).await?;
    Ok(Imported { size, tally, snapshot: Some(header.to.name) })
}

/// Whether there can be the snapshot that the stream ends with: not only when all was copied.
fn check_snapshot(to: &Moment) -> Result<(), Failure> {
    match rehearsal::snapshot(&to.name) {
        Err(refusal) if !to.name.is_empty() => Err(Failure::failed(format!(
            "the stream ends with snapshot {}: {refusal}",
            shown(&to.name)
        ))),
        _ => Ok(()),
    }
}

fn refuse_force(arguments: &Import) -> Result<(), Failure> {
    match arguments.force {
        true => Err(Failure::usage("--force is for streams of changes, and this is none")),
        false => Ok(()),
    }
}

fn refuse_size(arguments: &Import) -> Result<(), Failure> {
    match arguments.size {
        Some(_) => Err(Failure::usage("the stream says how large the volume is; leave out --size")),
        None => Ok(()),
    }
}

fn chunks(stream: Incoming) -> impl Stream<Item = Result<Chunk, Failure>> {
    stream::try_unfold(stream, async |mut stream| {
        let chunk = stream.next().await?;
        Ok(chunk.map(|chunk| (chunk, stream)))
    })
}

/// Writes what comes, much at once.
async fn write(
    volume: &Volume,
    chunks: impl Stream<Item = Result<Chunk, Failure>>,
    progress: &Progress,
) -> Result<Tally, Failure> {
    let written = chunks.map_ok(async |chunk| {
        write_chunk(volume, &chunk).await?;
        Ok::<_, Failure>(chunk)
    });
    let mut written = pin!(written.try_buffer_unordered(IN_FLIGHT));
    let mut tally = Tally::default();
    while let Some(chunk) = written.try_next().await? {
        tally.count(&chunk);
        progress.reach(chunk.end());
    }
    Ok(tally)
}

async fn write_chunk(volume: &Volume, chunk: &Chunk) -> Result<(), Error> {
    match chunk {
        Chunk::Data { offset, data } => volume.write(*offset, data.clone(), false).await,
        Chunk::Zero { offset, length } => volume.write_zeroes(*offset, *length, false).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[track_caller]
    fn check(image: Option<u64>, wanted: Option<u64>, expected: Expect) {
        let size = size_of(image, wanted.map(Bytes));
        expected.assert_eq(&size.map_or_else(|error| error, |Bytes(size)| size.to_string()));
    }

    #[test]
    fn the_size_is_that_of_the_image_or_more() {
        check(Some(5000), None, expect!["5000"]);
        check(Some(5000), Some(1 << 20), expect!["1048576"]);
        check(
            Some(5000),
            Some(4096),
            expect!["--size 4.0 KiB is less than the image has, 5000 bytes; leave it out"],
        );
        check(Some(0), None, expect!["the image is empty; give a --size"]);
        check(Some(0), Some(4096), expect!["4096"]);
        check(None, Some(4096), expect!["4096"]);
        check(None, None, expect!["what comes through a pipe has no size; give a --size"]);
    }

    #[test]
    fn people_and_programs_learn_what_was_imported() {
        let tally = Tally { data: 1 << 30, zeroed: 0 };
        let imported = Imported { size: 10 << 30, tally, snapshot: Some("mon".to_owned()) };
        let report = report("disk", &imported, Duration::from_secs(4));
        expect![[r#"
            Imported disk@mon of 10.0 GiB: 1.0 GiB of data in 4.0 s, 256 MiB/s.
        "#]]
        .assert_eq(&report.text);
        expect![[r#"{"bytes":1073741824,"holes":9663676416,"seconds":4.0,"size":10737418240,"snapshot":"mon","volume":"disk"}"#]].assert_eq(&report.json.to_string());
    }
}
