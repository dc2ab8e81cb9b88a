//! One run of one seed: the group is formed, everything may fail, everything is healed, and then
//! all must be well.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use turmoil::Sim;

use crate::mutation::Mutation;
use crate::nemesis::Nemesis;
use crate::world::World;
use crate::{client, entropy, member, operator};

/// What the hosts' clocks go at a time. Messages take at least as long.
pub(crate) const STEP: Duration = Duration::from_millis(5);
/// How long the group may take to form.
const FORMING: Duration = Duration::from_secs(60);
/// How long it may take to serve again, and all members to become equal, once all is healed.
const HEALING: Duration = Duration::from_secs(90);

/// What became of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    /// Of every event, in order, with its time.
    pub(crate) hash: u64,
    pub(crate) events: u64,
    /// Simulated time.
    pub(crate) simulated_ms: u64,
    /// How often what happened.
    pub(crate) counters: BTreeMap<String, u64>,
    /// The first promise that was broken.
    pub(crate) violation: Option<String>,
}

thread_local! {
    /// What the code under test panicked with; tokio keeps panics of tasks to itself.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a seed: once a process, because the randomness of all libraries follows from it.
pub(crate) fn simulate(seed: u64, mutation: Option<Mutation>, is_told: bool) -> Report {
    entropy::seed(seed);
    entropy::set_clock(Duration::ZERO);
    panic::set_hook(Box::new(|info| {
        PANIC.with_borrow_mut(|panic| panic.get_or_insert(info.to_string()).len());
    }));
    if let Some(mutation) = mutation {
        mutation.plant();
    }
    let world = World::new(seed, mutation, is_told);
    if is_told {
        println!("{:#?}", world.swarm);
    }
    let folder = folder();
    let run = AssertUnwindSafe(|| run(&world, &folder));
    if let Err(error) = panic::catch_unwind(run).unwrap_or(Ok(())) {
        world.trace.violation(&error);
    }
    if let Err(error) = fs::remove_dir_all(&folder) {
        world.trace.violation(&format!("cannot remove {}: {error}", folder.display()));
    }
    let simulated_ms = u64::try_from(world.trace.now().as_millis()).unwrap_or(u64::MAX);
    let finished = world.trace.finish();
    let panic = PANIC.take().map(|panic| format!("a panic: {panic}"));
    Report {
        seed,
        hash: finished.hash,
        events: finished.events,
        simulated_ms,
        counters: finished.counters.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        violation: panic.or(finished.violation),
    }
}

/// Where snapshots go: in memory, if the system has such a place.
fn folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    parent.join(format!("torus-simulate-metadata-{}", std::process::id()))
}

fn run(world: &Arc<World>, folder: &Path) -> Result<(), String> {
    let mut sim = build(world, folder);
    let mut nemesis = Nemesis::new(world);
    let mut until = |sim: &mut Sim<'_>, end: Duration, done: &mut dyn FnMut() -> bool| {
        loop {
            if is_over(world) || done() {
                return Ok::<_, String>(true);
            }
            if sim.elapsed() >= end {
                return Ok(false);
            }
            sim.step().map_err(|error| format!("a host ended: {error}"))?;
            entropy::set_clock(sim.elapsed());
            world.trace.set_now(sim.elapsed());
            nemesis.act(sim);
            if world.is_calm() {
                nemesis.heal(sim);
            }
        }
    };
    if !until(&mut sim, FORMING, &mut || world.is_formed())? {
        return Err("the group is not formed".to_owned());
    }
    let end = sim.elapsed() + world.swarm.unsafe_time;
    until(&mut sim, end, &mut || false)?;
    world.trace.note("all is healed");
    world.set_calm();
    let end = sim.elapsed() + HEALING;
    let judged = until(&mut sim, end, &mut || world.is_judged())?;
    let end = sim.elapsed() + HEALING;
    let equal = until(&mut sim, end, &mut || are_equal(world))?;
    if is_over(world) {
        return Ok(());
    }
    if !judged {
        return Err("the service did not come back".to_owned());
    }
    if !equal {
        return Err("the members did not become equal".to_owned());
    }
    world.history.check(world);
    Ok(())
}

fn build<'a>(world: &'a Arc<World>, folder: &'a Path) -> Sim<'a> {
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(world.seed)
        .tick_duration(STEP)
        .simulation_duration(Duration::from_secs(100_000))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(world.swarm.latency_ms))
        .tcp_capacity(1024);
    let mut sim = builder.build();
    for number in 0..world.swarm.members {
        sim.host(member::name(number), move || {
            member::run(Arc::clone(world), number, folder.join(member::name(number)))
        });
    }
    for number in 0..world.swarm.clients {
        sim.host(format!("c{number}"), move || client::run(Arc::clone(world), number));
    }
    sim.host("operator", move || operator::run(Arc::clone(world)));
    sim
}

fn is_over(world: &World) -> bool {
    world.trace.is_violated() || PANIC.with_borrow(Option::is_some)
}

/// Whether all members hold the same state, to the last byte.
fn are_equal(world: &World) -> bool {
    let image = |number| world.member(number).and_then(|member| member.image().ok());
    let Some(first) = image(0) else { return false };
    let equal = (1..world.swarm.members).all(|number| image(number).is_some_and(|it| it == first));
    if equal {
        world.trace.note(&format!("all members are equal: {} bytes", first.len()));
    }
    equal
}
