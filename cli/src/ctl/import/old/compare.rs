//! Whether a volume still has the content of a snapshot of it.

use futures::{StreamExt, TryStreamExt, stream};
use torus_volume::{Error, Volume, changes};

use crate::ctl::transfer::{IN_FLIGHT, WINDOW, pieces, whole};

/// Compares what is not stored in the same place.
pub(super) async fn is_same(snapshot: &Volume, volume: &Volume) -> Result<bool, Error> {
    if snapshot.size() != volume.size() {
        return Ok(false);
    }
    let mut at = 0;
    while at < volume.size() {
        let left = volume.size() - at;
        let length = u32::try_from(left).map_or(WINDOW, |left| left.min(WINDOW));
        let mut differing = Vec::new();
        let mut offset = at;
        for (length, change) in changes(snapshot, volume, at, length).await? {
            if change.is_some() {
                differing.extend(pieces(offset, length));
            }
            offset += length;
        }
        let same = stream::iter(differing).map(async |(offset, length)| {
            let was = whole(snapshot.read(offset, length).await?);
            Ok::<_, Error>(was == whole(volume.read(offset, length).await?))
        });
        if !same.buffer_unordered(IN_FLIGHT).try_all(async |same| same).await? {
            return Ok(false);
        }
        at += u64::from(length);
    }
    Ok(true)
}
