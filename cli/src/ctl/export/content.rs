//! The content of a volume, or what changed in it, read with much under way at once.

use futures::{Stream, TryStreamExt, stream};
use torus_volume::{Change, Error, Volume, changes};

use crate::ctl::transfer::{IN_FLIGHT, WINDOW, pieces, sift, whole};
use crate::stream::Chunk;

/// A range of a volume, before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Data { offset: u64, length: u32 },
    Zero { offset: u64, length: u64 },
}

/// The content of `volume`, in its order; with `from` what is not as it was there. Holes are left
/// out of the content, and told as zero where something was.
pub(super) fn chunks<'a>(
    volume: &'a Volume,
    from: Option<&'a Volume>,
) -> impl Stream<Item = Result<Vec<Chunk>, Error>> + 'a {
    let windows = stream::try_unfold(0, move |at| async move {
        let left = volume.size().saturating_sub(at);
        let length = u32::try_from(left).map_or(WINDOW, |left| left.min(WINDOW));
        if length == 0 {
            return Ok::<_, Error>(None);
        }
        let ranges = ranges(volume, from, at, length).await?;
        Ok(Some((stream::iter(ranges.into_iter().map(Ok)), at + u64::from(length))))
    });
    let read = async move |range| match range {
        Range::Zero { offset, length } => Ok(vec![Chunk::Zero { offset, length }]),
        Range::Data { offset, length } => {
            let data = whole(volume.read(offset, length).await?);
            Ok(sift(offset, &data))
        }
    };
    windows.try_flatten().map_ok(read).try_buffered(IN_FLIGHT)
}

async fn ranges(
    volume: &Volume,
    from: Option<&Volume>,
    at: u64,
    length: u32,
) -> Result<Vec<Range>, Error> {
    let mut ranges = Vec::new();
    let mut offset = at;
    if let Some(from) = from {
        for (length, change) in changes(from, volume, at, length).await? {
            match change {
                Some(Change::Data) => ranges.extend(data(offset, length)),
                Some(Change::Zero) => ranges.push(Range::Zero { offset, length }),
                None => {}
            }
            offset += length;
        }
    } else {
        for (length, mapped) in volume.mapped(at, length).await? {
            let length = length.into();
            if mapped {
                ranges.extend(data(offset, length));
            }
            offset += length;
        }
    }
    Ok(ranges)
}

fn data(offset: u64, length: u64) -> impl Iterator<Item = Range> {
    pieces(offset, length).map(|(offset, length)| Range::Data { offset, length })
}
