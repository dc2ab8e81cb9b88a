//! What the metadata says of one volume, as it changes.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use torus_blockstore::VolumeId;
use torus_metadata::{
    Answer, Event, EventKind, Followed, MetadataService, Revision, Volume, follow,
};

/// Ends with the writer: dropping it stops the following.
#[derive(Debug)]
pub(crate) struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A volume as it was at a revision.
pub(crate) type Seen = (Revision, Volume);

/// Follows a volume; of several changes only the newest may be seen.
pub(crate) fn follow_volume(
    meta: Arc<dyn MetadataService>,
    id: VolumeId,
) -> (Following, watch::Receiver<Option<Seen>>) {
    let (newest, changes) = watch::channel(None);
    let task = tokio::spawn(async move {
        let mut steps = follow(meta, vec![EventKind::Volume]);
        while let Some(step) = steps.next().await {
            for volume in volumes(step).filter(|(_, volume)| volume.id == id) {
                newest.send_replace(Some(volume));
            }
        }
    });
    (Following(task.abort_handle()), changes)
}

fn volumes(step: Followed) -> impl Iterator<Item = Seen> {
    let (revision, listed, changed) = match step {
        Followed::Listed(Answer::Volumes { volumes, revision, .. }) => {
            (revision, volumes, Vec::new())
        }
        Followed::Changed { events, revision } => (revision, Vec::new(), events),
        _ => Default::default(),
    };
    let changed = changed.into_iter().filter_map(|event| match event {
        Event::VolumeChanged(volume) => Some(volume),
        _ => None,
    });
    listed.into_iter().chain(changed).map(move |volume| (revision, volume))
}
