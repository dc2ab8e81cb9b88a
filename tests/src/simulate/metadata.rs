//! The metadata service as processes reach it over the simulated network: late, not at all, or with
//! an answer that is lost behind its effect.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use torus_distributor::{Follower, Volumes};
use torus_metadata::{
    Answer, Applied, Command, Error, Event, EventKind, MetadataService, Query, Refusal, Revision,
    SessionId, TempService, WatchItem,
};

use super::Context;
use super::chance::Chance;
use super::mutation::Mutation;
use super::network::{META, Network, Process};
use super::node::lock;

/// How long a client of the service tries before it says that nobody answers.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before it tries again.
const BETWEEN_TRIALS: Duration = Duration::from_millis(200);

/// The service, and all it has told its watchers.
pub(crate) struct Hub {
    context: Arc<Context>,
    network: Arc<Network>,
    pub(crate) service: TempService,
    log: Mutex<Log>,
    _listener: Mutex<Option<AbortOnDropHandle<()>>>,
}

#[derive(Default)]
struct Log {
    changes: Vec<(Revision, Vec<Event>)>,
    watchers: Vec<mpsc::UnboundedSender<()>>,
}

impl Hub {
    pub(crate) fn start(context: &Arc<Context>, network: &Arc<Network>) -> Arc<Self> {
        let hub = Arc::new(Self {
            context: Arc::clone(context),
            network: Arc::clone(network),
            service: TempService::with_clock(),
            log: Mutex::default(),
            _listener: Mutex::new(None),
        });
        // One watch for all: the order in which a channel wakes several is left to chance.
        let mut watch = hub.service.watch(Revision(0), Vec::new());
        let listening = Arc::downgrade(&hub);
        let listener = tokio::spawn(async move {
            while let Some(Ok(item)) = watch.next().await {
                let Some(hub) = listening.upgrade() else { return };
                if let WatchItem::Events { revision, events } = item {
                    let mut log = lock(&hub.log);
                    log.changes.push((revision, events));
                    log.watchers.retain(|watcher| watcher.send(()).is_ok());
                }
            }
        });
        *lock(&hub._listener) = Some(AbortOnDropHandle::new(listener));
        hub
    }

    /// The service as `process` reaches it.
    pub(crate) fn endpoint(self: &Arc<Self>, process: &Arc<Process>) -> Arc<Endpoint> {
        let chance = Chance::new(self.context.seed, &format!("metadata of {}", process.number));
        Arc::new(Endpoint { hub: Arc::clone(self), process: Arc::clone(process), chance })
    }

    pub(crate) fn follow(self: &Arc<Self>, process: &Arc<Process>, volumes: Volumes) -> Follower {
        let chance = Chance::new(self.context.seed, &format!("follower of {}", process.number));
        let jitter = Box::new(move || chance.part());
        Follower::start_with(self.endpoint(process), volumes, jitter)
    }
}

/// One process's way to the service.
pub(crate) struct Endpoint {
    hub: Arc<Hub>,
    process: Arc<Process>,
    chance: Chance,
}

impl Endpoint {
    fn rate(&self, rate: u64) -> bool {
        self.chance.happens(rate) && !self.hub.context.is_calm()
    }

    /// Goes there; an error if the way is cut.
    async fn go(&self) -> Result<(), Error> {
        self.process.only_alive(()).await;
        let network = &self.hub.network;
        sleep_until(network.arrival(self.process.host)).await;
        if network.is_cut(self.process.host, META) {
            sleep(PATIENCE).await;
            return self.process.only_alive(Err(unavailable())).await;
        }
        Ok(())
    }

    /// Comes back; an error if the way is cut or the answer lost.
    async fn come_back(&self) -> Result<(), Error> {
        let network = &self.hub.network;
        let is_lost = self.rate(self.hub.context.swarm.meta_loss);
        sleep_until(network.arrival(META)).await;
        if is_lost || network.is_cut(META, self.process.host) {
            self.hub.context.trace.sometimes("an answer of the metadata was lost");
            sleep(PATIENCE).await;
            return self.process.only_alive(Err(unavailable())).await;
        }
        network.awake(self.process.host).await;
        self.process.only_alive(Ok(())).await
    }

    async fn apply(&self, command: Command) -> Result<Applied, Error> {
        let context = &self.hub.context;
        let name = super::command_number(&command);
        if context.planted(Mutation::HeadNotDurable)
            && let Command::CommitHead { .. } = command
            && let Ok(Answer::Volumes { revision, .. }) =
                self.hub.service.query(Query::Volumes).await
            && self.chance.happens(300_000)
        {
            // Said to be kept, and forgotten.
            return Ok(Applied { revision, outcome: torus_metadata::Outcome::Done });
        }
        let result = self.hub.service.execute(command.clone()).await;
        let result = match result {
            Err(Error::Refused(Refusal::StaleEpoch { current, .. }))
                if context.planted(Mutation::LeaseAtTheWriterOnly) =>
            {
                match super::mutation::with_epoch(command.clone(), current) {
                    Some(command) => self.hub.service.execute(command).await,
                    None => Err(Error::Refused(Refusal::NoSuchSession)),
                }
            }
            result => result,
        };
        if context.trace.told() {
            println!("{command:?}");
        }
        context.trace.note("command", &[self.process.number, name, u64::from(result.is_ok())]);
        match &result {
            Err(Error::Refused(Refusal::StaleEpoch { .. })) => {
                context.trace.sometimes("the metadata refused a stale epoch");
            }
            Err(Error::Refused(Refusal::NotLocked { .. })) => {
                context.trace.sometimes("a lost lock was noticed");
            }
            _ => {}
        }
        result
    }
}

fn unavailable() -> Error {
    Error::Unavailable { tried: "the simulated service".to_owned(), source: None }
}

impl Endpoint {
    /// All there is of `kinds`, at one revision.
    async fn list(&self, kinds: Vec<EventKind>) -> Result<(Vec<Answer>, Revision), Error> {
        self.go().await?;
        let mut items = self.hub.service.list_and_watch(kinds);
        let mut listed: Vec<Answer> = Vec::new();
        // What there is comes at once, and behind it a progress mark.
        while let Some(WatchItem::Listed(answer)) = items.next().await.transpose()? {
            listed.push(answer);
        }
        self.come_back().await?;
        let revision = listed.first().map_or(Revision(0), Answer::revision);
        Ok((listed, revision))
    }

    /// One attempt at a command. The copies of one command share `answer`: the service carries it
    /// out once, and gives later copies the same answer.
    async fn attempt(&self, command: Command, answer: &Arc<Once>) -> Result<Applied, Error> {
        self.go().await?;
        if self.rate(self.hub.context.swarm.meta_late) {
            // The sender gives up; a copy of it is still under way.
            let late = Self {
                hub: Arc::clone(&self.hub),
                process: Arc::clone(&self.process),
                chance: Chance::new(self.chance.draw(), "late"),
            };
            let (way, answer) = (self.chance.millis(2000..20_000), Arc::clone(answer));
            tokio::spawn(async move {
                sleep(way).await;
                late.hub.context.trace.sometimes("a command arrived late");
                // Nobody waits for the answer.
                let _ = late.apply_once(command, &answer).await;
            });
            sleep(PATIENCE).await;
            return self.process.only_alive(Err(unavailable())).await;
        }
        let result = self.apply_once(command, answer).await;
        self.come_back().await?;
        result
    }

    async fn apply_once(&self, command: Command, answer: &Once) -> Result<Applied, Error> {
        let mut answer = answer.lock().await;
        if let Some(answer) = &*answer {
            return answer.clone().map_err(Error::Refused);
        }
        let result = self.apply(command).await;
        *answer = match &result {
            Ok(applied) => Some(Ok(applied.clone())),
            Err(Error::Refused(refusal)) => Some(Err(refusal.clone())),
            Err(_) => None,
        };
        result
    }
}

/// What the service answered to a command, once it has.
type Once = tokio::sync::Mutex<Option<Result<Applied, Refusal>>>;

impl MetadataService for Endpoint {
    fn execute_until_answered(&self, command: Command) -> BoxFuture<'_, Result<Applied, Error>> {
        async move {
            let answer = Arc::default();
            loop {
                match self.attempt(command.clone(), &answer).await {
                    Err(Error::Unavailable { .. }) => sleep(BETWEEN_TRIALS).await,
                    answer => return answer,
                }
            }
        }
        .boxed()
    }

    fn execute(&self, command: Command) -> BoxFuture<'_, Result<Applied, Error>> {
        async move { self.attempt(command, &Arc::default()).await }.boxed()
    }

    fn query(&self, query: Query) -> BoxFuture<'_, Result<Answer, Error>> {
        async move {
            self.go().await?;
            let answer = self.hub.service.query(query).await;
            self.come_back().await?;
            answer
        }
        .boxed()
    }

    fn watch(
        &self,
        from: Revision,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        let (sender, news) = mpsc::unbounded_channel();
        lock(&self.hub.log).watchers.push(sender);
        let watch = Watch {
            hub: Arc::clone(&self.hub),
            process: Arc::clone(&self.process),
            from,
            kinds,
            news,
        };
        stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            let item = watch.next().await;
            let is_over = item.is_err();
            Some((item, (!is_over).then_some(watch)))
        })
        .boxed()
    }

    fn list_and_watch(
        &self,
        kinds: Vec<EventKind>,
    ) -> BoxStream<'static, Result<WatchItem, Error>> {
        let there = Self {
            hub: Arc::clone(&self.hub),
            process: Arc::clone(&self.process),
            chance: Chance::new(self.chance.draw(), "list"),
        };
        let listed = async move {
            match there.list(kinds.clone()).await {
                Ok((listed, revision)) => {
                    let listed = listed.into_iter().map(|answer| Ok(WatchItem::Listed(answer)));
                    stream::iter(listed).chain(there.watch(revision, kinds)).boxed()
                }
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(listed).flatten().boxed()
    }

    fn keep_alive(&self, session: SessionId) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            self.go().await?;
            let result = self.hub.service.keep_alive(session).await;
            self.come_back().await?;
            result
        }
        .boxed()
    }
}

struct Watch {
    hub: Arc<Hub>,
    process: Arc<Process>,
    from: Revision,
    kinds: Vec<EventKind>,
    news: mpsc::UnboundedReceiver<()>,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchItem, Error> {
        loop {
            self.process.only_alive(()).await;
            let found = {
                let log = lock(&self.hub.log);
                let at = log.changes.partition_point(|(revision, _)| *revision <= self.from);
                log.changes.get(at).cloned()
            };
            let Some((revision, mut events)) = found else {
                if self.news.recv().await.is_none() {
                    return Err(unavailable());
                }
                continue;
            };
            self.from = revision;
            events.retain(|event| self.kinds.is_empty() || self.kinds.contains(&event.kind()));
            if events.is_empty() {
                continue;
            }
            let network = &self.hub.network;
            sleep_until(network.arrival(META)).await;
            network.awake(self.process.host).await;
            if network.is_cut(META, self.process.host) {
                sleep(PATIENCE).await;
                return Err(unavailable());
            }
            return Ok(WatchItem::Events { revision, events });
        }
    }
}
