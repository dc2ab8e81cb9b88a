//! One run, from its seed to its report.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Context;
use super::check;
use super::cluster::{Cluster, volume_name};
use super::deletions;
use super::groups;
use super::mutation::Mutation;
use super::nemesis::Nemesis;
use super::oracle::History;
use super::restores;
use super::snapshots;
use super::swarm::Swarm;
use super::trace::Trace;

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// Of every event, in order, with its time.
    pub hash: u64,
    pub events: u64,
    /// Simulated time.
    pub simulated_ms: u64,
    /// How often what happened.
    pub counters: BTreeMap<&'static str, u64>,
    /// The first promise that was broken.
    pub violation: Option<String>,
}

thread_local! {
    /// What the code under test panicked with; tokio keeps panics of tasks to itself.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes panics of this program's simulated parts.
fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_simulated = tokio::runtime::Handle::try_current().is_ok();
            PANIC.with_borrow_mut(|panic| panic.get_or_insert(info.to_string()).len());
            if !is_simulated {
                before(info);
            }
        }));
    });
}

/// Runs a seed. With `is_told`, every event is printed.
pub fn simulate(seed: u64, mutation: Option<Mutation>, is_told: bool) -> Report {
    simulate_as(seed, Swarm::draw(seed), mutation, is_told, run)
}

/// Runs `run` in a world of its own.
pub(super) fn simulate_as<F: Future<Output = u64>>(
    seed: u64,
    swarm: Swarm,
    mutation: Option<Mutation>,
    is_told: bool,
    run: impl FnOnce(Arc<Context>) -> F,
) -> Report {
    watch_for_panics();
    PANIC.take();
    #[cfg(feature = "planted")]
    torus_volume::plant(mutation.and_then(Mutation::in_volume));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime on this thread");
    let context = runtime.block_on(async {
        Arc::new(Context {
            seed,
            swarm,
            mutation,
            trace: Trace::new(is_told),
            calm: AtomicBool::new(false),
        })
    });
    // The product's own log, between the events.
    let _subscriber = is_told.then(|| {
        println!("{:#?}", context.swarm);
        let told = tracing_subscriber::fmt().without_time().with_ansi(false);
        tracing::subscriber::set_default(told.with_max_level(tracing::Level::DEBUG).finish())
    });
    let run = AssertUnwindSafe(|| runtime.block_on(run(Arc::clone(&context))));
    let simulated_ms = panic::catch_unwind(run).unwrap_or_default();
    drop(runtime);
    let finished = context.trace.finish();
    let violation = match PANIC.take() {
        Some(panic) => Some(format!("a panic: {panic}")),
        None => finished.violation,
    };
    Report {
        seed,
        hash: finished.hash,
        events: finished.events,
        simulated_ms,
        counters: finished.counters,
        violation,
    }
}

/// Both phases; the simulated time.
async fn run(context: Arc<Context>) -> u64 {
    let context = &context;
    let cluster = match Cluster::start(context).await {
        Ok(cluster) => cluster,
        Err(error) => {
            context.trace.violation(format!("no cluster: {}", super::chain(&error)));
            return 0;
        }
    };
    let swarm = &context.swarm;
    let sectors = swarm.pages * 8;
    let mut tasks = vec![AbortOnDropHandle::new(tokio::spawn(Nemesis::new(&cluster).run()))];
    for number in 0..swarm.volumes {
        let Some(volume) = cluster.track(volume_name(number), History::new(sectors)).await else {
            continue;
        };
        tasks.push(AbortOnDropHandle::new(tokio::spawn(snapshots::look_after(
            Arc::clone(&cluster),
            volume,
        ))));
    }
    if swarm.groups && swarm.snapshots {
        let taking = groups::take(Arc::clone(&cluster));
        tasks.push(AbortOnDropHandle::new(tokio::spawn(taking)));
    }
    let mut left = swarm.unsafe_ms;
    while left > 0 && !is_over(context) {
        let part = left.min(500);
        sleep(Duration::from_millis(part)).await;
        left -= part;
    }
    if !is_over(context) {
        context.calm_down();
        drop(tasks);
        cluster.kill_clients();
        Nemesis::heal(&cluster).await;
        if let Err(what) = converge(&cluster).await {
            context.trace.violation(what);
        }
    }
    for volume in cluster.tracked() {
        let (all, lost) = volume.history.totals();
        context.trace.count("effects", all);
        if lost > 0 {
            context.trace.sometimes("a crash took what was not flushed");
        }
    }
    context.trace.now()
}

fn is_over(context: &Context) -> bool {
    context.trace.is_violated() || PANIC.with_borrow(Option::is_some)
}

/// The second phase: everything is well, and all must become so.
async fn converge(cluster: &Arc<Cluster>) -> Result<(), String> {
    deletions::are_over(cluster).await?;
    for volume in cluster.tracked() {
        if cluster.present(&volume).await.is_none() {
            continue;
        }
        check::volume_serves(cluster, &volume).await?;
        snapshots::all_are_what_they_were(cluster, &volume).await?;
        restores::one_more(cluster, &volume).await?;
        check::space_comes_back(cluster, &volume).await?;
    }
    groups::are_cuts(cluster)?;
    let settled = timeout(Duration::from_secs(900), check::copies_settle(cluster)).await;
    settled.unwrap_or_else(|_| Err("the copies do not settle".to_owned()))
}
