//! Follows the ring, the peers and the deletion of volumes, for as long as it lives.
//!
//! List, then watch from there; a watch that breaks off goes on behind the last revision seen, and
//! where the service no longer keeps the changes since, the list is read again. Nothing that the
//! metadata service does ends it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use torus_blockstore::PeerId;
use torus_metadata::{
    Answer, Error, Event, EventKind, MetadataService, Peer, Query, Revision, Ring, WatchItem,
};

use crate::Placer;

/// The pause after a failed call, doubled for each that follows up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The pause after changes of volumes alone: busy writers make hundreds a second, and each that wakes the
/// follower by itself takes time from the next.
const VOLUMES_PAUSE: Duration = Duration::from_millis(20);
/// Changes that are taken in at a time.
const CHUNK: usize = 1024;

/// What the cluster looks like, as far as the data path cares.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// `None` until the cluster is initialised and its ring was read.
    pub ring: Option<Arc<Placer>>,
    /// The registered peers; `None` until they were read.
    pub peers: Option<BTreeMap<PeerId, Peer>>,
    /// Counts the changes of volumes, for those who asked for them.
    pub volume_changes: u64,
    /// Counts the deletions of volumes, for those who asked for them.
    pub volume_deletions: u64,
}

/// Draws a part of a pause, from a half to the whole, so that clients which lost the service
/// together do not all come back together.
pub type Jitter = Box<dyn FnMut() -> f64 + Send>;

/// Keeps a [`View`] current; ends when dropped.
pub struct Follower {
    view: watch::Receiver<View>,
    _task: AbortOnDropHandle<()>,
}

/// Whether changes of volumes wake the follower too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volumes {
    Followed,
    Ignored,
}

impl Follower {
    /// Starts to follow; must be called on a tokio runtime.
    pub fn start(metadata: Arc<dyn MetadataService>, volumes: Volumes) -> Self {
        Self::start_with(metadata, volumes, Box::new(|| rand::random_range(0.5..1.0)))
    }

    /// As [`start`](Self::start), with another source of chance.
    pub fn start_with(
        metadata: Arc<dyn MetadataService>,
        volumes: Volumes,
        jitter: Jitter,
    ) -> Self {
        let mut kinds = vec![EventKind::Ring, EventKind::Peer];
        if volumes == Volumes::Followed {
            kinds.push(EventKind::Volume);
        }
        let (sender, view) = watch::channel(View::default());
        let task = tokio::spawn(follow(metadata, kinds, sender, jitter));
        Self { view, _task: AbortOnDropHandle::new(task) }
    }

    /// The view, and whenever it changes.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }
}

async fn follow(
    metadata: Arc<dyn MetadataService>,
    kinds: Vec<EventKind>,
    view: watch::Sender<View>,
    mut jitter: Jitter,
) {
    let mut pause = SHORTEST_PAUSE;
    let mut from = None;
    loop {
        let heard = match from {
            None => list(&*metadata, &view).await.map(|revision| from = Some(revision)),
            Some(_) => Ok(()),
        };
        let ended = match (heard, &mut from) {
            (Ok(()), Some(revision)) => {
                let before = *revision;
                let ended = watch_from(&*metadata, &kinds, revision, &view).await;
                if *revision > before {
                    pause = SHORTEST_PAUSE;
                }
                ended
            }
            (Err(error), _) => Some(error),
            (Ok(()), None) => None,
        };
        if let Some(error) = ended {
            tracing::debug!(
                error = &error as &(dyn std::error::Error + 'static),
                "following the metadata broke off"
            );
            if matches!(error, Error::Compacted { .. }) {
                from = None;
            }
        }
        tokio::time::sleep(pause.mul_f64(jitter())).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Reads everything; the revision behind which to watch. Changes between the two reads are seen
/// again by the watch.
async fn list(
    metadata: &dyn MetadataService,
    view: &watch::Sender<View>,
) -> Result<Revision, Error> {
    let Answer::Ring { ring, revision } = metadata.query(Query::Ring(None)).await? else {
        return Err(Error::Protocol { what: "the ring" });
    };
    let Answer::Peers { peers, .. } = metadata.query(Query::Peers).await? else {
        return Err(Error::Protocol { what: "the peers" });
    };
    view.send_modify(|view| {
        if let Some(ring) = &ring {
            take_ring(view, ring);
        }
        view.peers = Some(peers.into_iter().map(|peer| (peer.id, peer)).collect());
        // What happened to volumes while nobody watched is not known: something may have.
        view.volume_changes += 1;
        view.volume_deletions += 1;
    });
    Ok(revision)
}

/// Follows until the watch ends; `None` if it ended without a reason.
async fn watch_from(
    metadata: &dyn MetadataService,
    kinds: &[EventKind],
    revision: &mut Revision,
    view: &watch::Sender<View>,
) -> Option<Error> {
    let mut items = metadata.watch(*revision, kinds.to_vec()).ready_chunks(CHUNK);
    while let Some(chunk) = items.next().await {
        let mut heard = Vec::new();
        let mut ended = None;
        for item in chunk {
            match item {
                Ok(WatchItem::Events { revision: at, events }) => {
                    heard.extend(events);
                    *revision = at;
                }
                Ok(WatchItem::Progress(at)) => *revision = at.max(*revision),
                // It was not asked for.
                Ok(WatchItem::Listed(_)) => {}
                Err(error) => {
                    ended = Some(error);
                    break;
                }
            }
        }
        let is_of_volumes = |event: &Event| event.kind() == EventKind::Volume;
        let can_wait = heard.iter().any(is_of_volumes) && heard.iter().all(is_of_volumes);
        if !heard.is_empty() {
            view.send_modify(|view| heard.iter().for_each(|event| take(view, event)));
        }
        if ended.is_some() {
            return ended;
        }
        if can_wait {
            tokio::time::sleep(VOLUMES_PAUSE).await;
        }
    }
    None
}

fn take(view: &mut View, event: &Event) {
    match event {
        Event::RingChanged(ring) => take_ring(view, ring),
        Event::PeerChanged(peer) => {
            view.peers.get_or_insert_default().insert(peer.id, peer.clone());
        }
        Event::PeerRemoved(id) => {
            view.peers.get_or_insert_default().remove(id);
        }
        Event::VolumeChanged(_) => view.volume_changes += 1,
        Event::VolumeDeleted(_) => view.volume_deletions += 1,
        Event::Initialised(_)
        | Event::SessionOpened(_)
        | Event::SessionEnded(_)
        | Event::GroupChanged(_) => {}
    }
}

/// A ring never goes back, also when an old event comes after a newer list.
fn take_ring(view: &mut View, ring: &Ring) {
    if view.ring.as_ref().is_none_or(|known| known.version() < ring.version) {
        view.ring = Some(Arc::new(Placer::new(ring)));
    }
}
