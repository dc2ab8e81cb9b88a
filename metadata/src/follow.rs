//! Following the metadata for as long as a daemon lives: lists, watches, and begins again when a
//! watch breaks off.

use std::sync::Arc;
use std::time::Duration;

use async_stream::stream;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::{Answer, Error, Event, EventKind, MetadataService, Query, Revision, WatchItem};

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
    /// The service does not answer at present; it is tried again.
    Interrupted(Error),
}

/// Follows things of these kinds (all: empty). The stream never ends.
pub fn follow(
    service: Arc<dyn MetadataService>,
    kinds: Vec<EventKind>,
) -> BoxStream<'static, Followed> {
    const ALL: [EventKind; 5] = [
        EventKind::Cluster,
        EventKind::Peer,
        EventKind::Ring,
        EventKind::Volume,
        EventKind::Session,
    ];
    let kinds = if kinds.is_empty() { ALL.to_vec() } else { kinds };
    stream! {
        let mut pause = PAUSE_FIRST;
        'list: loop {
            let mut listed = Vec::new();
            for kind in &kinds {
                match service.query(list(*kind)).await {
                    Ok(answer) => {
                        listed.push((*kind, answer.revision()));
                        yield Followed::Listed(answer);
                    }
                    Err(error) => {
                        yield Followed::Interrupted(error);
                        wait(&mut pause).await;
                        continue 'list;
                    }
                }
            }
            let mut from = listed.iter().map(|(_, revision)| *revision).min().unwrap_or_default();
            loop {
                let mut items = service.watch(from, kinds.clone());
                while let Some(item) = items.next().await {
                    match item {
                        Ok(WatchItem::Events { revision, mut events }) => {
                            from = revision;
                            pause = PAUSE_FIRST;
                            events.retain(|event| is_news(&listed, event, revision));
                            if !events.is_empty() {
                                yield Followed::Changed { revision, events };
                            }
                        }
                        Ok(WatchItem::Progress(revision)) => {
                            from = from.max(revision);
                            pause = PAUSE_FIRST;
                            yield Followed::Current(from);
                        }
                        Err(Error::Compacted { .. }) => continue 'list,
                        Err(error) => {
                            yield Followed::Interrupted(error);
                            break;
                        }
                    }
                }
                wait(&mut pause).await;
            }
        }
    }
    .boxed()
}

/// The lists are read one after another: an older change of a kind that was listed later is known.
fn is_news(listed: &[(EventKind, Revision)], event: &Event, revision: Revision) -> bool {
    listed.iter().any(|(kind, seen)| *kind == event.kind() && revision > *seen)
}

fn list(kind: EventKind) -> Query {
    match kind {
        EventKind::Cluster => Query::Cluster,
        EventKind::Peer => Query::Peers,
        EventKind::Ring => Query::Ring(None),
        EventKind::Volume => Query::Volumes,
        EventKind::Session => Query::Sessions,
    }
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
            | Self::Sessions { revision, .. } => *revision,
        }
    }
}
