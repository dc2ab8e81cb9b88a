//! The content of a volume, or what changed in it, read with much under way at once.

use bytes::{Bytes, BytesMut};
use futures::{Stream, TryStreamExt, stream};
use torus_volume::{Change, Error, Volume};

use crate::ctl::transfer::{IN_FLIGHT, PIECE, sift};
use crate::stream::Chunk;

/// So much of the map is looked at in one go.
const WINDOW: u64 = 1 << 30;

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
        let length = WINDOW.min(volume.size().saturating_sub(at));
        if length == 0 {
            return Ok(None);
        }
        let ranges = ranges(volume, from, at, length).await?;
        Ok(Some((stream::iter(ranges.into_iter().map(Ok)), at + length)))
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
    length: u64,
) -> Result<Vec<Range>, Error> {
    let mut ranges = Vec::new();
    if let Some(from) = from {
        for (offset, length, change) in volume.changes(from, at, length).await? {
            match change {
                Change::Data => ranges.extend(cut(offset, length)),
                Change::Zero => ranges.push(Range::Zero { offset, length }),
            }
        }
    } else {
        let mut offset = at;
        for (length, mapped) in volume.mapped(at, u32::try_from(length).unwrap_or(u32::MAX)).await?
        {
            if mapped {
                ranges.extend(cut(offset, length.into()));
            }
            offset += u64::from(length);
        }
    }
    Ok(ranges)
}

/// Cuts a range into pieces that do not cross multiples of [`PIECE`].
fn cut(offset: u64, length: u64) -> impl Iterator<Item = Range> {
    let (mut at, end, piece) = (offset, offset + length, PIECE as u64);
    std::iter::from_fn(move || {
        let length = (end - at).min(piece - at % piece);
        let offset = at;
        at += length;
        let length = u32::try_from(length).ok().filter(|length| *length > 0)?;
        Some(Range::Data { offset, length })
    })
}

fn whole(pieces: Vec<Bytes>) -> Bytes {
    match <[Bytes; 1]>::try_from(pieces) {
        Ok([piece]) => piece,
        Err(pieces) => {
            let mut data = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|piece| data.extend_from_slice(piece));
            data.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_aligned() {
        let data = |offset, length| Range::Data { offset, length };
        let piece = PIECE as u64;
        assert_eq!(cut(0, 4096).collect::<Vec<_>>(), [data(0, 4096)]);
        assert_eq!(
            cut(piece - 4096, piece + 8192).collect::<Vec<_>>(),
            [data(piece - 4096, 4096), data(piece, 256 << 10), data(2 * piece, 4096)]
        );
        assert_eq!(cut(7, 0).count(), 0);
    }

    #[test]
    fn pieces_are_put_together() {
        let pieces = [&b"to"[..], b"", b"rus"].map(Bytes::from_static);
        assert_eq!(whole(pieces.to_vec()), "torus");
        assert_eq!(whole(vec![]), "");
    }
}
