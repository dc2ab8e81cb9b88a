//! One run: forms a group, has it worked on and harmed, and judges what was seen.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use torus_blockstore::{Epoch, PeerId};
use torus_metadata::{Answer, Client, Command, MetadataService, Peer, Query};

use super::clients::{Shared, Stretch, Worker, create, ring};
use super::group::{DAEMONS, Group};
use super::lockers::Locker;
use super::model::{Input, Output, State};
use super::nemesis::{Fault, Harm, Nemesis};
use super::network::Network;
use super::record::Record;
use super::report::Report;
use super::watchers::{Seen, Step, watch};
use crate::history::Random;
use crate::wait::{Stopwatch, wait_until};

const WORKERS: u64 = 6;
const LOCKERS: u64 = 3;
/// How long clients work on the same volumes.
const STRETCH: Duration = Duration::from_secs(8);
const WATCHERS_BOUND: Duration = Duration::from_secs(30);
/// Commands after which every member has taken a snapshot, and how many are sent at a time.
const MUCH: u64 = 75_000;
const WRITERS: usize = 100;
/// How often harm that did not come about is tried again.
const AGAIN: usize = 2;
/// A member that was paused so long has missed several elections.
const LONG_PAUSE: Duration = Duration::from_secs(30);

/// How long a run is, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Each kind of harm once, briefly.
    Short,
    /// Harm for so long, one pause of 30 s among it.
    Long(Duration),
}

/// Runs once. To be called on the thread of the test: the daemons end with it.
#[track_caller]
pub fn run(seed: u64, form: Form) -> Report {
    let watch = Stopwatch::start();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (network, no_network) = match Network::create(DAEMONS) {
        Ok(network) => (Some(network), None),
        Err(why) => (None, Some(why)),
    };
    let mut group = Group::form(runtime.handle().clone(), network);
    let mut random = Random(seed);
    let shared = runtime.block_on(prepare(&group, form)).expect("a group that was prepared");
    let before = group.status().map_or(0, |status| status.term);

    let seen = Arc::new(Seen::default());
    let watching = CancellationToken::new();
    let from = runtime.block_on(revision(&shared)).expect("a group that answers");
    let watchers = start_watchers(&runtime, &group, &seen, from, &watching);
    let clients = start_clients(&runtime, &shared, &mut random);
    let wanted = wanted(no_network.is_none());
    let harm = torment(&runtime, &mut group, &shared, random, form, &wanted);
    let after = group.status().map_or(0, |status| status.term);

    shared.stop.cancel();
    for client in clients {
        runtime.block_on(client).expect("a client that ends");
    }
    let stuck = harm.stuck.clone();
    let reached = match stuck {
        Some(_) => 0,
        None => runtime.block_on(revision(&shared)).expect("a healed group answers"),
    };
    wait_until("all watchers have seen everything", WATCHERS_BOUND, || {
        let all = seen.reached();
        if all.iter().all(|got| *got >= reached) { Ok(()) } else { Err(format!("{all:?}")) }
    });
    watching.cancel();
    for watcher in watchers {
        runtime.block_on(watcher).expect("a watcher that ends");
    }
    let mut report = judge(&shared, &seen, reached, harm);
    report.violations.extend(stuck.into_iter().chain(group.fallen()));
    (report.seed, report.time, report.no_network) = (seed, watch.elapsed(), no_network);
    report.terms = after.saturating_sub(before);
    report.find_vacuous(&wanted, matches!(form, Form::Long(_)));
    if !report.passed() {
        write_down(group.folder(), &shared.record, &seen);
        report.kept = Some(group.keep());
    }
    report
}

fn wanted(has_network: bool) -> Vec<Fault> {
    Fault::ALL.into_iter().filter(|fault| has_network || !fault.needs_network()).collect()
}

/// What clients need before any harm is done: volumes, a peer, and the ring with it.
async fn prepare(group: &Group, form: Form) -> Result<Arc<Shared>, String> {
    let client = Client::new(group.addresses().to_vec());
    let time = match form {
        Form::Short => Duration::from_secs(80),
        Form::Long(time) => time + Duration::from_secs(120),
    };
    let mut stretches = Vec::new();
    for number in 0..=time.as_secs() / STRETCH.as_secs() {
        let volume = |what: &str| create(&client, format!("{what}-{number}"));
        stretches.push(Stretch {
            register: volume("register").await?.id,
            counter: volume("counter").await?.id,
            lock: volume("lock").await?.id,
        });
    }
    // A peer that no daemon is: the ring may name it whoever comes and goes.
    let peer = PeerId::random();
    let address = "127.0.0.1:9".to_owned();
    let known = Peer { id: peer, address, zone: String::new(), size_blocks: 1, node: None };
    if let Form::Long(_) = form {
        write_much(&client).await?;
    }
    let commands = [Command::RegisterPeer(known), Command::SetRing(ring(peer, 2, 1))];
    for command in commands {
        client.execute(command).await.map_err(|err| err.to_string())?;
    }
    Ok(Arc::new(Shared {
        record: Record::start(),
        addresses: group.addresses().to_vec(),
        stretches,
        stretch: STRETCH,
        peer,
        stop: CancellationToken::new(),
    }))
}

/// So much that members take snapshots, and new ones are sent one.
async fn write_much(client: &Client) -> Result<(), String> {
    let volume = create(client, "much".to_owned()).await?.id;
    let reserve = |_| async move {
        let command = Command::ReserveINodes { volume, epoch: Epoch(0), count: 1 };
        client.execute(command).await.map(drop).map_err(|err| err.to_string())
    };
    futures::stream::iter(0..MUCH).map(reserve).buffer_unordered(WRITERS).try_collect().await
}

fn start_watchers(
    runtime: &Runtime,
    group: &Group,
    seen: &Arc<Seen>,
    from: u64,
    stop: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    let all = || Client::new(group.addresses().to_vec());
    let one = group.addresses().iter().map(|address| Client::new([address.clone()]));
    let watchers = one.chain([all()]).enumerate();
    watchers
        .map(|(number, client)| {
            let (seen, stop) = (Arc::clone(seen), stop.clone());
            runtime.spawn(watch(seen, number, from, client, all(), stop))
        })
        .collect()
}

fn start_clients(
    runtime: &Runtime,
    shared: &Arc<Shared>,
    random: &mut Random,
) -> Vec<JoinHandle<()>> {
    let mut clients = Vec::new();
    for number in 0..WORKERS {
        let worker = Worker::new(Arc::clone(shared), number, random.draw());
        clients.push(runtime.spawn(worker.run()));
    }
    for number in WORKERS..WORKERS + LOCKERS {
        let locker = Locker::new(Arc::clone(shared), number, random.draw());
        clients.push(runtime.spawn(locker.run()));
    }
    clients
}

fn torment(
    runtime: &Runtime,
    group: &mut Group,
    shared: &Shared,
    random: Random,
    form: Form,
    wanted: &[Fault],
) -> Harm {
    let watch = Stopwatch::start();
    let lasts = match form {
        Form::Short => 600..2_200,
        Form::Long(_) => 500..9_000,
    };
    let (handle, record, harm) = (runtime.handle().clone(), &shared.record, Harm::default());
    let mut nemesis = Nemesis { handle, group, record, random, lasts, harm };
    let order = nemesis.shuffled(wanted);
    match form {
        Form::Short => {
            for fault in order {
                nemesis.strike(fault);
            }
        }
        Form::Long(time) => {
            nemesis.strike_for(Fault::PauseLeader, LONG_PAUSE);
            let mut next = order.iter().cycle();
            while watch.elapsed() < time
                && nemesis.harm.stuck.is_none()
                && let Some(fault) = next.next()
            {
                nemesis.strike(*fault);
            }
        }
    }
    // What did not come about, as when nobody led just then, is tried again.
    for fault in wanted.iter().cycle().take(wanted.len() * AGAIN) {
        if !nemesis.harm.faults.contains_key(fault) {
            nemesis.strike(*fault);
        }
    }
    nemesis.harm
}

/// The newest revision.
async fn revision(shared: &Shared) -> Result<u64, String> {
    let client = Client::new(shared.addresses.clone());
    match client.query(Query::Ring(None)).await {
        Ok(Answer::Ring { revision, .. }) => Ok(revision.0),
        other => Err(format!("no ring, but {other:?}")),
    }
}

fn judge(shared: &Shared, seen: &Seen, reached: u64, harm: Harm) -> Report {
    let kept = shared.record.kept();
    let watched = seen.kept();
    let mut violations = kept.violations(&State::Ring { version: 2, weight: 1 });
    violations.extend(watched.violations(&kept.expected, reached));
    let steps = || watched.steps.iter().flatten();
    let begun = steps().filter(|step| matches!(step, Step::From(_))).count();
    let compacted = steps().filter(|step| matches!(step, Step::Compacted)).count();
    Report {
        seed: 0,
        time: Duration::ZERO,
        answered: kept.answered,
        unanswered: kept.unanswered,
        harm,
        no_network: None,
        terms: 0,
        expired: watched.ended().filter(|session| !kept.closed.contains(session)).count() as u64,
        stale: kept.count(|_, output| matches!(output, Output::Stale { .. })),
        lost_swaps: kept.count(|input, output| {
            matches!((input, output), (Input::Swap { .. }, Output::RingIsAt(_)))
        }),
        revisions: watched.events.len() as u64,
        resumed: begun.saturating_sub(watched.steps.len()) as u64,
        compacted: compacted as u64,
        violations,
        vacuous: Vec::new(),
        kept: None,
    }
}

/// Writes all histories and what each watcher saw beside the daemons' logs.
fn write_down(folder: &Path, record: &Record, seen: &Seen) {
    let kept = record.kept();
    for (object, operations) in &kept.histories {
        let mut text = String::new();
        for operation in operations {
            writeln!(text, "{operation:?}").expect("a text grows");
        }
        write(folder.join(format!("{object}.history")), &text);
    }
    write(folder.join("revisions"), &format!("{:#?}", kept.stamps));
    let watched = seen.kept();
    for (number, steps) in watched.steps.iter().enumerate() {
        write(folder.join(format!("watcher-{number}")), &format!("{steps:#?}"));
    }
    write(folder.join("events"), &format!("{:#?}", watched.events));
}

fn write(path: PathBuf, text: &str) {
    fs::write(&path, text).expect("a folder to write to");
}
