//! The metadata service in memory: for tests, the simulation, and a cluster that need not last.
//!
//! The same state machine as the `raft` service, with one member and no log. On one thread and
//! tokio's paused clock the same calls give the same answers in the same order: nothing in it is
//! left to chance.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::deadlines::{Deadlines, Heard};
use crate::machine::{Proposal, RequestId};
use crate::replica::Replica;
use crate::serve::{self, Backend, Freshness};
use crate::wire::{Failure, KeptAlive};
use crate::{
    Answer, Applied, Command, Error, EventKind, MetadataService, Query, Refusal, Response,
    Revision, SessionId, WatchItem,
};

/// Between attempts while the service is out of reach.
const PAUSE: Duration = Duration::from_millis(100);

/// How often sessions are looked at.
const TICK: Duration = Duration::from_millis(50);

/// A metadata service in memory. Not initialised at first: give it [`Command::Init`].
pub struct TempService {
    core: Arc<Core>,
    /// Ends silent sessions.
    _clock: Option<AbortOnDropHandle<()>>,
}

struct Core {
    replica: Arc<Replica>,
    /// Counts what would be log entries.
    index: AtomicU64,
    /// `None`: sessions end only by [`TempService::expire`].
    deadlines: Option<Mutex<Deadlines>>,
    reach: Arc<Reach>,
}

/// Whether the service answers. Wakes in the order of waiting, as [`Replica`] does.
struct Reach {
    is_given: AtomicBool,
    changed: Notify,
}

impl Reach {
    fn set(&self, is_given: bool) {
        self.is_given.store(is_given, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    async fn lost(&self) {
        loop {
            // Before the look, so that no change falls between.
            let changed = self.changed.notified();
            if !self.is_given.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Watches may outlive the service.
        self.reach.set(false);
    }
}

impl Default for TempService {
    fn default() -> Self {
        Self::new()
    }
}

impl TempService {
    /// A service whose sessions end only by [`expire`](Self::expire).
    pub fn new() -> Self {
        Self { core: Arc::new(Core::new(None)), _clock: None }
    }

    /// A service that ends sessions which are silent for their time, by tokio's clock. Must be
    /// called on a tokio runtime.
    pub fn with_clock() -> Self {
        let core = Arc::new(Core::new(Some(Mutex::default())));
        let clock = tokio::spawn(end_silent_sessions(Arc::clone(&core)));
        Self { core, _clock: Some(AbortOnDropHandle::new(clock)) }
    }

    /// Ends a session as if its owner had been silent for too long.
    pub fn expire(&self, session: SessionId) {
        // Never refused: sessions that have ended are passed over.
        self.core.change(Command::ExpireSessions(vec![session])).ok();
    }

    /// Whether calls are answered; otherwise they fail as if nobody could be reached, and watches
    /// break off.
    pub fn set_reachable(&self, reachable: bool) {
        self.core.reach.set(reachable);
    }

    /// The service for a gRPC server, which [`Client`](crate::Client) can talk to.
    pub fn routes(&self, address: &str) -> tonic::service::Routes {
        let backend = Arc::clone(&self.core) as Arc<dyn Backend>;
        tonic::service::Routes::new(serve::service(backend, vec![address.to_owned()].into()))
    }
}

impl MetadataService for TempService {
    fn execute_until_answered(&self, command: Command) -> BoxFuture<'_, Result<Applied, Error>> {
        async move {
            loop {
                match self.execute(command.clone()).await {
                    // It does nothing that it does not answer.
                    Err(Error::Unavailable { .. }) => tokio::time::sleep(PAUSE).await,
                    answer => return answer,
                }
            }
        }
        .boxed()
    }

    fn execute(&self, command: Command) -> BoxFuture<'_, Result<Applied, Error>> {
        async {
            self.core.check_reachable().map_err(|_| unreachable_error())?;
            Ok(self.core.change(command)?)
        }
        .boxed()
    }

    fn query(&self, query: Query) -> BoxFuture<'_, Result<Answer, Error>> {
        async move {
            self.core.check_reachable().map_err(|_| unreachable_error())?;
            Ok(self.core.replica.answer(&query))
        }
        .boxed()
    }

    fn watch(
        &self,
        from: Revision,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        Backend::watch(&*self.core, Some(from), kinds)
    }

    fn list_and_watch(
        &self,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        Backend::watch(&*self.core, None, kinds)
    }

    fn keep_alive(&self, session: SessionId) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            self.core.check_reachable().map_err(|_| unreachable_error())?;
            Ok(self.core.hear(session)?)
        }
        .boxed()
    }
}

impl Core {
    fn new(deadlines: Option<Mutex<Deadlines>>) -> Self {
        Self {
            replica: Arc::new(Replica::new()),
            index: AtomicU64::new(0),
            deadlines,
            reach: Arc::new(Reach { is_given: AtomicBool::new(true), changed: Notify::new() }),
        }
    }

    fn change(&self, command: Command) -> Response {
        // The number is taken under the machine's lock, so the order is that of a log.
        self.replica.update(|machine| machine.change(self.next_index(), command))
    }

    fn next_index(&self) -> u64 {
        self.index.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn hear(&self, session: SessionId) -> KeptAlive {
        if let Some(deadlines) = &self.deadlines {
            let mut deadlines = deadlines.lock().unwrap_or_else(PoisonError::into_inner);
            let now = now();
            deadlines.follow(self.replica.read().state.sessions(), now, Duration::ZERO);
            match deadlines.heard(session, now) {
                Heard::Prolonged => Ok(()),
                // Here a session ends in the same step in which its time is found to be over.
                Heard::Ending | Heard::Unknown => Err(Refusal::NoSuchSession),
            }
        } else if self.replica.read().state.sessions().any(|known| known.id == session) {
            Ok(())
        } else {
            Err(Refusal::NoSuchSession)
        }
    }

    fn check_reachable(&self) -> Result<(), Failure> {
        if self.reach.is_given.load(Ordering::SeqCst) { Ok(()) } else { Err(Failure::Unavailable) }
    }
}

impl Backend for Core {
    fn execute(
        &self,
        request: RequestId,
        command: Command,
    ) -> BoxFuture<'_, Result<Response, Failure>> {
        async move {
            self.check_reachable()?;
            let proposal = Proposal::Command { request, command };
            Ok(self.replica.update(|machine| machine.apply(self.next_index(), proposal)))
        }
        .boxed()
    }

    fn query(&self, query: Query, _: Freshness) -> BoxFuture<'_, Result<Answer, Failure>> {
        async move {
            self.check_reachable()?;
            Ok(self.replica.answer(&query))
        }
        .boxed()
    }

    fn keep_alive(&self, session: SessionId) -> BoxFuture<'_, Result<KeptAlive, Failure>> {
        async move {
            self.check_reachable()?;
            Ok(self.hear(session))
        }
        .boxed()
    }

    fn watch(
        &self,
        from: Option<Revision>,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        let reach = Arc::clone(&self.reach);
        self.replica.watch(from, kinds, async move {
            reach.lost().await;
            unreachable_error()
        })
    }
}

async fn end_silent_sessions(core: Arc<Core>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(deadlines) = &core.deadlines else { return };
        let due = {
            let mut deadlines = deadlines.lock().unwrap_or_else(PoisonError::into_inner);
            let now = now();
            deadlines.follow(core.replica.read().state.sessions(), now, Duration::ZERO);
            deadlines.due(now, usize::MAX)
        };
        if !due.is_empty() {
            core.change(Command::ExpireSessions(due)).ok();
        }
    }
}

fn unreachable_error() -> Error {
    Error::Unavailable { tried: "memory".to_owned(), source: None }
}

fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::{Event, Outcome, fixtures};

    async fn open_session(service: &TempService, ttl_ms: u32) -> SessionId {
        let command = Command::OpenSession { owner: "host".to_owned(), ttl_ms };
        match service.execute(command).await.unwrap().outcome {
            Outcome::Session(session) => session,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a watch tells of the session's end.
    async fn wait_for_end(service: &TempService, session: SessionId) {
        let mut watch = service.watch(Revision(0), vec![EventKind::Session]);
        let ended = async {
            while let Some(item) = watch.next().await {
                if let WatchItem::Events { events, .. } = item.unwrap()
                    && events.contains(&Event::SessionEnded(session))
                {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the session ends");
    }

    #[tokio::test]
    async fn sessions_end_when_they_are_silent() {
        let service = TempService::with_clock();
        service.execute(fixtures::init()).await.unwrap();
        let silent = open_session(&service, 100).await;
        let alive = open_session(&service, 60_000).await;
        service.keep_alive(silent).await.unwrap();
        wait_for_end(&service, silent).await;
        let error = service.keep_alive(silent).await.unwrap_err();
        assert!(matches!(error, Error::Refused(Refusal::NoSuchSession)), "{error}");
        service.keep_alive(alive).await.unwrap();
    }

    #[tokio::test]
    async fn without_a_clock_sessions_end_when_told() {
        let service = TempService::new();
        service.execute(fixtures::init()).await.unwrap();
        let session = open_session(&service, 100).await;
        service.keep_alive(session).await.unwrap();
        service.expire(session);
        wait_for_end(&service, session).await;
    }

    #[tokio::test]
    async fn a_watch_is_in_order_gapless_and_of_the_kinds_asked_for() {
        let service = TempService::new();
        service.execute(fixtures::init()).await.unwrap();
        let mut volumes = service.watch(Revision(0), vec![EventKind::Volume]);
        let mut all = service.watch(Revision(1), vec![]);
        for number in 0..600 {
            let name = format!("v{number}");
            service.execute(Command::CreateVolume { name, size: 1, spec: None }).await.unwrap();
            if number % 3 == 0 {
                open_session(&service, 1000).await;
            }
        }
        let mut names = Vec::new();
        while names.len() < 600 {
            if let WatchItem::Events { events, .. } = volumes.next().await.unwrap().unwrap() {
                let [Event::VolumeChanged(volume)] = &*events else { panic!("{events:?}") };
                names.push(volume.name.clone());
            }
        }
        assert!((0..600).map(|number| format!("v{number}")).eq(names));
        let mut revisions = Vec::new();
        while revisions.len() < 800 {
            if let WatchItem::Events { revision, .. } = all.next().await.unwrap().unwrap() {
                revisions.push(revision.0);
            }
        }
        assert!((2..802).eq(revisions));
    }

    #[tokio::test]
    async fn watches_break_off_with_the_service() {
        let service = TempService::new();
        service.execute(fixtures::init()).await.unwrap();
        let mut first = service.watch(Revision(1), vec![EventKind::Volume]);
        service.set_reachable(false);
        let cut = |item| matches!(item, Some(Err(Error::Unavailable { .. })));
        assert!(cut(first.next().await));
        assert!(cut(service.watch(Revision(1), vec![]).next().await));
        service.set_reachable(true);
        let mut last = service.watch(Revision(1), vec![EventKind::Volume]);
        assert!(matches!(last.next().await, Some(Ok(WatchItem::Progress(_)))));
        drop(service);
        while let Some(item) = last.next().await {
            if cut(Some(item)) {
                return;
            }
        }
        panic!("the watch ended without a word");
    }

    /// In which order watchers hear of changes, when all wait for them at once.
    async fn order_of_waking() -> Vec<(usize, u64)> {
        let service = Arc::new(TempService::with_clock());
        service.execute(fixtures::init()).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..8 {
            let (service, heard) = (Arc::clone(&service), Arc::clone(&heard));
            tasks.spawn(async move {
                let mut watch = service.watch(Revision(1), vec![]);
                while let Some(item) = watch.next().await {
                    match item {
                        Ok(WatchItem::Events { revision, .. }) => {
                            heard.lock().unwrap().push((number, revision.0));
                        }
                        Ok(WatchItem::Progress(_) | WatchItem::Listed(_)) => {}
                        Err(_) => return,
                    }
                }
            });
        }
        for number in 0..20 {
            service.execute(fixtures::create(&format!("v{number}"))).await.unwrap();
            open_session(&service, 100).await;
            tokio::time::sleep(TICK * 4).await;
        }
        service.set_reachable(false);
        tasks.join_all().await;
        std::mem::take(&mut *heard.lock().unwrap())
    }

    #[test]
    fn the_same_calls_are_heard_in_the_same_order() {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build();
            runtime.unwrap().block_on(order_of_waking())
        };
        let first = run();
        assert!(first.len() > 8 * 40, "{first:?}");
        assert_eq!(run(), first);
    }
}
