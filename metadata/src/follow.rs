//! Following the metadata for as long as a daemon lives: lists, watches, and begins again when a
//! watch breaks off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::{Answer, Error, Event, EventKind, MetadataService, Revision, WatchItem};

/// The first pause after a failure; it doubles, up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// One step of following.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once a step")]
pub enum Followed {
    /// All there is of one kind; it replaces what was known of it. Comes once for each kind at the
    /// beginning, and again when changes were missed that are no longer kept.
    Listed(Answer),
    /// What one revision changed, of the kinds that are followed.
    Changed { revision: Revision, events: Vec<Event> },
    /// Nothing up to this revision is missing.
    Current(Revision),
    /// Changes up to this revision are no longer kept, and were missed. Lists follow.
    Compacted(Revision),
    /// The service does not answer at present; it is tried again.
    Interrupted(Error),
}

/// Follows things of these kinds (all: empty). The stream never ends.
pub fn follow(
    service: Arc<dyn MetadataService>,
    kinds: Vec<EventKind>,
) -> BoxStream<'static, Followed> {
    follow_from(service, kinds, None)
}

/// As [`follow`], but from behind `from` on: what is there is listed only if the changes since then
/// are no longer kept. That is said by a step [`Followed::Compacted`].
pub fn follow_from(
    service: Arc<dyn MetadataService>,
    kinds: Vec<EventKind>,
    mut from: Option<Revision>,
) -> BoxStream<'static, Followed> {
    stream! {
        let mut pause = PAUSE_FIRST;
        let distinct = kinds.iter().collect::<BTreeSet<_>>().len();
        let wanted = if distinct == 0 { EventKind::ALL.len() } else { distinct };
        loop {
            let mut items = match from {
                Some(from) => service.watch(from, kinds.clone()),
                None => service.list_and_watch(kinds.clone()),
            };
            let mut listed = 0;
            while let Some(item) = items.next().await {
                match item {
                    Ok(WatchItem::Listed(answer)) => {
                        listed += 1;
                        if listed == wanted {
                            from = Some(answer.revision());
                        }
                        yield Followed::Listed(answer);
                    }
                    Ok(WatchItem::Events { revision, events }) => {
                        from = Some(revision);
                        pause = PAUSE_FIRST;
                        yield Followed::Changed { revision, events };
                    }
                    Ok(WatchItem::Progress(revision)) => {
                        let at = from.map_or(revision, |from| from.max(revision));
                        from = Some(at);
                        pause = PAUSE_FIRST;
                        yield Followed::Current(at);
                    }
                    Err(Error::Compacted { compacted }) => {
                        from = None;
                        yield Followed::Compacted(compacted);
                        break;
                    }
                    Err(error) => {
                        yield Followed::Interrupted(error);
                        break;
                    }
                }
            }
            wait(&mut pause).await;
        }
    }
    .boxed()
}

/// Not spread by chance: the client does that with its attempts, and the simulation has none.
async fn wait(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSE_LAST);
}

impl Answer {
    /// The revision at which the state was read.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Cluster { revision, .. }
            | Self::Volumes { revision, .. }
            | Self::Volume { revision, .. }
            | Self::Ring { revision, .. }
            | Self::Peers { revision, .. }
            | Self::Sessions { revision, .. }
            | Self::Group { revision, .. } => *revision,
        }
    }
}
