//! What clients do with a volume: open it, read it whole, use it, and end in one way or another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep, timeout};
use torus_volume::{Error, OpenError, Volume};

use super::Context;
use super::chance::Chance;
use super::cluster::{Client, Cluster, Tracked};
use super::mutation::Mutation;
use super::network::millis;
use super::node::lock;
use super::oracle::{History, Life, SECTOR, Snapshot, content, values};

/// One volume's clients.
pub(crate) struct User {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) volume: Tracked,
    pub(crate) chance: Arc<Chance>,
}

/// What the answer to a request means for the life that asked.
enum Done {
    Fine,
    /// The volume is of no more use to this client.
    Over,
}

type Pending = FuturesUnordered<BoxFuture<'static, Done>>;

impl User {
    /// Uses the volume again and again, until told to stop by being dropped.
    pub(crate) async fn run(self) {
        let mut round = 0;
        loop {
            let host = self.volume.host + round % 2;
            round += 1;
            let client = Arc::new(self.cluster.client(host));
            if self.cluster.present(&self.volume).await.is_none() {
                self.create_anew(&client).await;
            }
            match self.chance.within(0..100) {
                0..30 => self.restore(&client).await,
                30..40 if self.cluster.context.swarm.deletions => self.delete(&client).await,
                _ => self.life(client).await,
            }
            sleep(self.chance.millis(0..500)).await;
        }
    }

    #[expect(clippy::too_many_lines, reason = "a life is told from its beginning to its end")]
    async fn life(&self, client: Arc<Client>) {
        let context = &self.cluster.context;
        let swarm = &context.swarm;
        let patience = self.chance.millis(2000..60_000);
        let began = Instant::now();
        let opened = timeout(patience, self.cluster.open(&client, &self.volume)).await;
        let volume = match opened {
            Ok(Ok(volume)) => Arc::new(volume),
            Ok(Err(error)) => {
                let is_used = matches!(error, OpenError::InUse { .. });
                context.trace.note("not opened", &[client.process.number, u64::from(is_used)]);
                context.trace.sometimes("an opener was refused or failed");
                if context.trace.told() {
                    println!("{}", super::chain(&error));
                }
                sleep(self.chance.millis(100..1500)).await;
                return client.kill();
            }
            Err(_) => {
                context.trace.sometimes("a client died while it opened");
                return client.kill();
            }
        };
        context.trace.note("opened", &[client.process.number, millis(began.elapsed())]);
        let whole = timeout(patience, read_whole(&volume, self.volume.history.sectors())).await;
        let found = match whole {
            Ok(Ok(found)) => found,
            Ok(Err(Failure::Wrong(what))) => {
                context.trace.violation(format!("{}: {what}", self.volume.name));
                return client.kill();
            }
            Ok(Err(Failure::Error(error))) => {
                self.judge_error(&error, "the first read");
                return client.kill();
            }
            Err(_) => return client.kill(),
        };
        let life = match self.volume.history.begin(found) {
            Ok(life) => life,
            Err(what) => {
                context.trace.violation(format!("{}: {what}", self.volume.name));
                return client.kill();
            }
        };
        let number = lock(&life).number;
        let origin = lock(&life).origin();
        let present = self.cluster.present(&self.volume).await;
        lock(&life).epoch = present.filter(|it| it.lock.is_some()).map(|it| it.epoch);
        context.trace.note("began", &[client.process.number, number, origin as u64]);
        if let Some(event) = super::restores::event(origin) {
            context.trace.sometimes(event);
        }
        let worker = Worker {
            context: Arc::clone(context),
            name: self.volume.name.clone(),
            volume: Arc::clone(&volume),
            life,
            history: Arc::clone(&self.volume.history),
            is_resizing: Arc::default(),
            is_over: Arc::default(),
            chance: Chance::new(self.chance.draw(), &format!("worker of life {number}")),
        };
        let ends = self.chance.within(0..100);
        let time = self.chance.millis(100..30_000);
        if swarm.takeovers && ends < 40 {
            // It goes on, cut off from the metadata, while its successor comes.
            let is_asleep = ends < 20;
            let mut sleeps = Duration::ZERO;
            if is_asleep {
                // It begins a new block when it wakes up, which its successor has never seen: only
                // the peers' fences stand in its way then.
                drop(timeout(patience, volume.checkpoint()).await);
                sleeps = Duration::from_millis(swarm.ttl_ms + 2000);
            }
            let cut =
                self.cluster.network.cut(client.process.host.set(), super::network::META.set());
            let (network, chance) = (Arc::clone(&self.cluster.network), self.chance.draw());
            let lasts = Duration::from_millis(swarm.ttl_ms * 2 + chance % 20_000) + sleeps;
            tokio::spawn(async move {
                sleep(sleeps).await;
                let work = worker.run(lasts * 2);
                let cutting = async {
                    sleep(lasts).await;
                    network.heal(cut);
                };
                futures::future::join(cutting, work).await;
                client.kill();
            });
            return sleep(time.min(lasts)).await;
        }
        // What it was waiting for when it dies may still be refused: only then is it known that it
        // was not written. So the answers are heard to the end.
        let mut working = tokio::spawn(worker.run(Duration::MAX));
        let worked = timeout(time, &mut working).await;
        worker.is_over.store(true, Ordering::Relaxed);
        if worked.is_err() && swarm.client_crashes && ends < 80 {
            context.trace.note("client dies", &[client.process.number]);
            context.trace.sometimes("a client died");
            return client.kill();
        }
        let last = lock(&worker.life).accepted();
        match timeout(Duration::from_secs(60), volume.close()).await {
            Ok(Ok(())) => {
                context.trace.note("closed", &[client.process.number]);
                context.trace.sometimes("a volume was closed");
                worker.flushed(last);
            }
            Ok(Err(error)) => self.judge_error(&error, "closing"),
            Err(_) => {}
        }
        client.kill();
    }

    fn judge_error(&self, error: &Error, during: &str) {
        if self.volume.history.is_doomed() {
            return;
        }
        judge(&self.cluster.context, &self.volume.name, error, during);
    }
}

/// Whether an error may happen at all.
fn judge(context: &Context, name: &str, error: &Error, during: &str) {
    match error {
        Error::TakenOver { .. } => context.trace.sometimes("a volume was taken over"),
        Error::Closed => {}
        Error::NoSpace if context.swarm.full => {
            context.trace.sometimes("a write met a full cluster")
        }
        // A deposed writer may meet any of these.
        Error::Refused(_) => context.trace.sometimes("the metadata refused a writer"),
        error => context.trace.violation(format!("{name}: {during}: {}", super::chain(error))),
    }
}

/// As [`judge`]; whoever has a successor, or whose volume was deleted, may meet any error.
fn judge_life(context: &Context, name: &str, life: &Mutex<Life>, error: &Error, during: &str) {
    if lock(life).is_deposed() && !matches!(error, Error::TakenOver { .. } | Error::Refused(_)) {
        return context.trace.sometimes("a writer that was shut out met an error");
    }
    judge(context, name, error, during);
}

pub(crate) enum Failure {
    Error(Error),
    Wrong(String),
}

/// The values of all sectors, of which there are at most so many.
pub(crate) async fn read_whole(volume: &Volume, sectors: u64) -> Result<Vec<u64>, Failure> {
    let length = u32::try_from(volume.size()).unwrap_or(u32::MAX);
    let bytes = volume.read(0, length).await.map_err(Failure::Error)?.concat();
    let mut found = values(0, &bytes).map_err(Failure::Wrong)?;
    // What is behind the end is as good as zero.
    found.resize(usize::try_from(sectors).unwrap_or(usize::MAX), 0);
    Ok(found)
}

/// The work of one life.
pub(crate) struct Worker {
    pub(crate) context: Arc<Context>,
    pub(crate) name: String,
    pub(crate) volume: Arc<Volume>,
    pub(crate) life: Arc<Mutex<Life>>,
    pub(crate) history: Arc<History>,
    /// One change of the size at a time: whether another is refused is known too late.
    pub(crate) is_resizing: Arc<AtomicBool>,
    /// It sends nothing more.
    pub(crate) is_over: Arc<AtomicBool>,
    pub(crate) chance: Chance,
}

impl Worker {
    /// Sends requests for so long, or until the volume is of no more use.
    pub(crate) fn run(&self, time: Duration) -> impl Future<Output = ()> + Send + 'static {
        let worker = Worker {
            context: Arc::clone(&self.context),
            name: self.name.clone(),
            volume: Arc::clone(&self.volume),
            life: Arc::clone(&self.life),
            history: Arc::clone(&self.history),
            is_resizing: Arc::clone(&self.is_resizing),
            is_over: Arc::clone(&self.is_over),
            chance: Chance::new(self.chance.draw(), "requests"),
        };
        async move {
            let mut pending = Pending::new();
            let end = Instant::now().checked_add(time);
            let is_over = || worker.is_over.load(Ordering::Relaxed);
            while !is_over() && end.is_none_or(|end| Instant::now() < end) {
                while pending.len() as u64 >= worker.context.swarm.depth {
                    if let Some(Done::Over) = pending.next().await {
                        return;
                    }
                }
                if worker.is_to_resize() {
                    // It overtakes the writes that wait for room.
                    while let Some(done) = pending.next().await {
                        if let Done::Over = done {
                            return;
                        }
                    }
                    pending.push(worker.resize());
                } else {
                    pending.push(worker.next());
                }
                // Answers are taken while it thinks; the first poll sends the request.
                let thinking = sleep(worker.chance.millis(worker.context.swarm.think_ms.clone()));
                tokio::pin!(thinking);
                loop {
                    tokio::select! {
                        biased;
                        Some(done) = pending.next() => if let Done::Over = done { return },
                        () = &mut thinking => break,
                    }
                }
            }
            while let Some(done) = pending.next().await {
                if let Done::Over = done {
                    return;
                }
            }
        }
    }

    fn is_to_resize(&self) -> bool {
        let is_drawn = self.chance.happens(10_000);
        is_drawn && self.context.swarm.resizes && !self.is_resizing.swap(true, Ordering::Relaxed)
    }

    /// Draws a range: its first sector and the one behind it.
    fn range(&self) -> (u64, u64) {
        let sectors = self.volume.size() / SECTOR;
        let first = self.chance.within(0..sectors);
        let is_aligned = self.chance.happens(700_000);
        let is_long = self.chance.happens(40_000);
        let longest = (sectors - first).min(if is_long { 512 } else { 32 });
        let count = self.chance.within(1..longest + 1);
        match is_aligned {
            false => (first, first + count),
            true => (first / 8 * 8, (first + count).next_multiple_of(8).min(sectors)),
        }
    }

    fn next(&self) -> BoxFuture<'static, Done> {
        let (first, end) = self.range();
        let (pages, pages_end) = (first.next_multiple_of(8), end / 8 * 8);
        let swarm = &self.context.swarm;
        match self.chance.within(0..100) {
            // A few of these go a long way.
            0 if swarm.snapshots && self.history.snapshots().len() < 5 => self.snapshot(),
            2 if swarm.snapshots => self.flatten(),
            0..10 => self.flush(),
            10..12 => self.checkpoint(),
            12..34 => self.read(first, end),
            34..42 if pages < pages_end => self.trim(first, end, pages, pages_end),
            42..47 if pages < pages_end => self.write_zeroes(pages, pages_end),
            number => self.write(first, end, number % 10 == 0),
        }
    }

    pub(crate) fn flushed(&self, count: usize) {
        if let Err(what) = lock(&self.life).flushed(count) {
            self.context.trace.violation(format!("{}: {what}", self.name));
        }
    }

    /// Takes the answer to a request that changes something.
    fn finish(
        context: &Context,
        name: &str,
        life: &Mutex<Life>,
        span: super::oracle::Span,
        is_durable: bool,
        result: Result<(), Error>,
    ) -> Done {
        match result {
            Ok(()) => {
                let mut life = lock(life);
                life.accept(span);
                let flushed = if is_durable { life.flushed(span.end) } else { Ok(()) };
                context.trace.note("accepted", &[life.number, span.end as u64]);
                if let Err(what) = flushed {
                    context.trace.violation(format!("{name}: {what}"));
                }
                Done::Fine
            }
            // The volume has become smaller meanwhile.
            Err(Error::OutOfRange { .. }) => {
                context.trace.note("out of range", &[span.end as u64]);
                lock(life).refuse(span);
                Done::Fine
            }
            Err(error @ (Error::Read { .. } | Error::Damaged { .. } | Error::NoSpace)) => {
                lock(life).refuse(span);
                judge_life(context, name, life, &error, "a write");
                Done::Fine
            }
            Err(error) => {
                judge_life(context, name, life, &error, "a write");
                Done::Over
            }
        }
    }

    fn write(&self, first: u64, end: u64, fua: bool) -> BoxFuture<'static, Done> {
        let mut life = lock(&self.life);
        let value = life.fresh_value();
        let span = life.issue(first, end, value);
        self.context.trace.note("write", &[life.number, first, end, value, span.end as u64]);
        drop(life);
        let (context, name, volume) = self.shared();
        let life = Arc::clone(&self.life);
        let data = content(first, end, value).into();
        let sent_fua = fua && !context.planted(Mutation::FuaIgnored);
        async move {
            let result = volume.write(first * SECTOR, data, sent_fua).await;
            Self::finish(&context, &name, &life, span, fua, result)
        }
        .boxed()
    }

    fn trim(&self, first: u64, end: u64, pages: u64, pages_end: u64) -> BoxFuture<'static, Done> {
        let span = lock(&self.life).issue(pages, pages_end, 0);
        self.context.trace.note("zero", &[pages, pages_end, span.end as u64]);
        let (context, name, volume) = self.shared();
        let life = Arc::clone(&self.life);
        let fua = self.chance.happens(100_000);
        async move {
            let result = volume.trim(first * SECTOR, (end - first) * SECTOR, fua).await;
            Self::finish(&context, &name, &life, span, fua, result)
        }
        .boxed()
    }

    fn write_zeroes(&self, pages: u64, pages_end: u64) -> BoxFuture<'static, Done> {
        let span = lock(&self.life).issue(pages, pages_end, 0);
        self.context.trace.note("zero", &[pages, pages_end, span.end as u64]);
        let (context, name, volume) = self.shared();
        let life = Arc::clone(&self.life);
        async move {
            let length = (pages_end - pages) * SECTOR;
            let result = volume.write_zeroes(pages * SECTOR, length, false).await;
            Self::finish(&context, &name, &life, span, false, result)
        }
        .boxed()
    }

    fn snapshot(&self) -> BoxFuture<'static, Done> {
        let from = lock(&self.life).accepted();
        let snapshot = format!("s{}", lock(&self.life).fresh_value());
        let (context, name, volume) = self.shared();
        let (life, history) = (Arc::clone(&self.life), Arc::clone(&self.history));
        async move {
            let result = volume.snapshot(&snapshot, 0).await.map(drop);
            if result.is_ok() {
                history.taken(Snapshot::new(snapshot, &life, from));
            }
            Self::durable(&context, &name, &life, from, result, "a snapshot was taken")
        }
        .boxed()
    }

    /// Makes the volume smaller or larger again; what is cut off must not come back.
    fn resize(&self) -> BoxFuture<'static, Done> {
        let largest = self.history.sectors();
        let (now, size) = (self.volume.size() / SECTOR, self.chance.within(1..largest / 8 + 1) * 8);
        let size = size.max(largest / 4);
        let span = lock(&self.life).issue(size.min(now), now, 0);
        self.context.trace.note("resize", &[now, size, span.end as u64]);
        let (context, name, volume) = self.shared();
        let (life, is_resizing) = (Arc::clone(&self.life), Arc::clone(&self.is_resizing));
        async move {
            let result = volume.resize(size * SECTOR, true).await;
            is_resizing.store(false, Ordering::Relaxed);
            if result.is_ok() {
                context.trace.sometimes("a volume was resized");
            }
            // What is cut off is cut durably; growing makes nothing durable.
            Self::finish(&context, &name, &life, span, size < now, result)
        }
        .boxed()
    }

    fn flatten(&self) -> BoxFuture<'static, Done> {
        let (context, name, volume) = self.shared();
        let life = Arc::clone(&self.life);
        async move {
            match volume.flatten().await {
                Ok(()) => Done::Fine,
                Err(error) => {
                    judge_life(&context, &name, &life, &error, "flattening");
                    Done::Over
                }
            }
        }
        .boxed()
    }

    fn flush(&self) -> BoxFuture<'static, Done> {
        let count = lock(&self.life).accepted();
        let (context, name, volume) = self.shared();
        let life = Arc::clone(&self.life);
        async move {
            let result = volume.flush().await;
            Self::durable(&context, &name, &life, count, result, "a flush was answered")
        }
        .boxed()
    }

    fn checkpoint(&self) -> BoxFuture<'static, Done> {
        let count = lock(&self.life).accepted();
        let (context, name, volume) = self.shared();
        let life = Arc::clone(&self.life);
        async move {
            let result = volume.checkpoint().await;
            Self::durable(&context, &name, &life, count, result, "a checkpoint was stored")
        }
        .boxed()
    }

    fn durable(
        context: &Context,
        name: &str,
        life: &Mutex<Life>,
        count: usize,
        result: Result<(), Error>,
        counter: &'static str,
    ) -> Done {
        match result {
            Ok(()) => {
                context.trace.sometimes(counter);
                context.trace.note("flushed", &[count as u64]);
                if let Err(what) = lock(life).flushed(count) {
                    context.trace.violation(format!("{name}: {what}"));
                }
                Done::Fine
            }
            Err(error) => {
                judge_life(context, name, life, &error, "a flush");
                Done::Over
            }
        }
    }

    fn read(&self, first: u64, end: u64) -> BoxFuture<'static, Done> {
        let reading = lock(&self.life).begin_read(first, end);
        let (context, name, volume) = self.shared();
        let life = Arc::clone(&self.life);
        async move {
            let length = u32::try_from((end - first) * SECTOR).unwrap_or(u32::MAX);
            match volume.read(first * SECTOR, length).await {
                Ok(bytes) => {
                    let found = values(first, &bytes.concat())
                        .and_then(|found| lock(&life).end_read(&reading, &found));
                    if let Err(what) = found {
                        context.trace.violation(format!("{name}: {what}"));
                    }
                    context.trace.sometimes("a read was answered");
                    Done::Fine
                }
                Err(Error::OutOfRange { .. }) => Done::Fine,
                Err(error) => {
                    judge_life(&context, &name, &life, &error, "a read");
                    Done::Over
                }
            }
        }
        .boxed()
    }

    fn shared(&self) -> (Arc<Context>, String, Arc<Volume>) {
        (Arc::clone(&self.context), self.name.clone(), Arc::clone(&self.volume))
    }
}
