//! Every short workload with a crash at every operation of the disks.
//!
//! Most crash bugs need only a few operations, but the right moment (Mohan and others, "Finding
//! Crash-Consistency Bugs with Bounded Black-Box Crash Testing", OSDI 2018): so all workloads of up
//! to three operations are run, and each again with the power going at each operation of a disk; of
//! what was not synced nothing, everything or a part is left. Then the volume must hold a prefix.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use torus_volume::Volume;

use super::check;
use super::cluster::{Cluster, Tracked, volume_name};
use super::node::{End, lock};
use super::oracle::{History, Life, SECTOR, content};
use super::run::simulate_as;
use super::swarm::Swarm;
use super::workload::{Failure, read_whole};
use super::{Context, chain};

/// One operation of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    WriteOne,
    WriteTwo,
    Overwrite,
    Trim,
    Flush,
    Checkpoint,
}

const OPERATIONS: &[Operation] = &[
    Operation::WriteOne,
    Operation::WriteTwo,
    Operation::Overwrite,
    Operation::Trim,
    Operation::Flush,
    Operation::Checkpoint,
];

/// Operations of the longest workloads.
const LONGEST: usize = 3;

/// Who loses power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// One node, which comes back at once; the client goes on.
    One,
    /// All nodes and the client, when this one is at the operation.
    All,
}

/// What an enumeration came to.
#[derive(Debug, Default)]
pub struct Enumerated {
    pub workloads: usize,
    /// Runs with a crash: a workload, a victim, an operation and what the crash leaves.
    pub states: u64,
    pub failures: Vec<String>,
}

/// Runs all of them.
pub fn enumerate_crashes() -> Enumerated {
    let workloads = workloads();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Enumerated { workloads: workloads.len(), ..Enumerated::default() });
    let work = || {
        while let Some(workload) = workloads.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (states, failures) = crash_everywhere(workload);
            let mut found = lock(&found);
            found.states += states;
            found.failures.extend(failures);
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn workloads() -> Vec<Vec<Operation>> {
    let mut all = Vec::new();
    let mut last = vec![Vec::new()];
    for _ in 0..LONGEST {
        last = last
            .iter()
            .flat_map(|before: &Vec<Operation>| {
                OPERATIONS.iter().map(|&operation| [&before[..], &[operation]].concat())
            })
            .collect();
        all.extend(last.iter().cloned());
    }
    all
}

/// All crashes of one workload: how many, and what they broke.
fn crash_everywhere(workload: &[Operation]) -> (u64, Vec<String>) {
    let mut states = 0;
    let mut failures = Vec::new();
    let kinds = [0, 1].map(|node| [Victim::One, Victim::All].map(|victim| (node, victim)));
    for (node, victim) in kinds.into_iter().flatten() {
        for left in [0, 1, 7] {
            // Until the workload is over before the power goes.
            for operation in 0.. {
                let crash = Crash { node, victim, operation, left };
                let (report, has_crashed) = run(workload, crash);
                if let Some(violation) = report {
                    failures.push(format!("{workload:?} {crash:?}: {violation}"));
                }
                if !has_crashed {
                    break;
                }
                states += 1;
            }
        }
    }
    (states, failures)
}

#[derive(Clone, Copy, Debug)]
struct Crash {
    node: usize,
    victim: Victim,
    /// Of this node's disk, counted from the beginning of the workload.
    operation: u64,
    /// What it leaves: a seed, 0 nothing, 1 everything.
    left: u64,
}

/// The violation, if there was one, and whether the power went before the workload was over.
fn run(workload: &[Operation], crash: Crash) -> (Option<String>, bool) {
    let has_crashed = Arc::new(Mutex::new(false));
    let noted = Arc::clone(&has_crashed);
    let report = simulate_as(1, Swarm::quiet(2, 2), None, false, |context| async move {
        match steps(&context, workload, crash).await {
            Ok(has_crashed) => *lock(&noted) = has_crashed,
            Err(what) => context.trace.violation(what),
        }
        context.trace.now()
    });
    let has_crashed = *lock(&has_crashed);
    (report.violation, has_crashed)
}

async fn steps(
    context: &Arc<Context>,
    workload: &[Operation],
    crash: Crash,
) -> Result<bool, String> {
    let cluster = Cluster::start(context).await.map_err(|error| chain(&error))?;
    let history = History::new(context.swarm.pages * 8);
    let tracked = cluster.track(volume_name(0), history).await.ok_or("there is no volume")?;
    let Tracked { name, history, .. } = &tracked;
    let client = cluster.client(0);
    let volume = client.open(name).await.map_err(|error| chain(&error))?;
    let found = match read_whole(&volume, history.sectors()).await {
        Ok(found) => found,
        Err(Failure::Wrong(what)) => return Err(what),
        Err(Failure::Error(error)) => return Err(chain(&error)),
    };
    let life = history.begin(found)?;
    let first = &cluster.nodes[crash.node];
    cluster.nodes.iter().for_each(|node| node.leave_to(crash.left));
    first.disk().crash_after(crash.operation);
    let fallen = async {
        while first.life().is_some() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let work = carry_out(&volume, &life, workload);
    let has_crashed = match crash.victim {
        Victim::All => tokio::select! {
            biased;
            () = fallen => true,
            done = timeout(Duration::from_secs(60), work) => {
                done.map_err(|_| "the workload hangs".to_owned())??;
                false
            }
        },
        Victim::One => {
            let restarted = async {
                fallen.await;
                sleep(Duration::from_millis(20)).await;
                first.start(&cluster.nodes);
                std::future::pending().await
            };
            tokio::select! {
                biased;
                () = restarted => {}
                done = timeout(Duration::from_secs(60), work) => {
                    done.map_err(|_| "the workload hangs".to_owned())??;
                }
            }
            first.life().is_none() || first.has_restarted()
        }
    };
    client.kill();
    for node in &cluster.nodes {
        node.stop(End::Power);
        node.start(&cluster.nodes);
    }
    check::volume_serves(&cluster, &tracked).await?;
    Ok(has_crashed)
}

async fn carry_out(
    volume: &Volume,
    life: &Mutex<Life>,
    workload: &[Operation],
) -> Result<(), String> {
    for (index, operation) in (0..).zip(workload) {
        // Page 1 is overwritten and trimmed; the others are written once.
        let (first, end) = match operation {
            Operation::WriteOne => (16 + 16 * index, 24 + 16 * index),
            Operation::WriteTwo => (16 + 16 * index, 32 + 16 * index),
            Operation::Overwrite | Operation::Trim => (8, 16),
            Operation::Flush | Operation::Checkpoint => {
                let accepted = lock(life).accepted();
                let durable = match operation {
                    Operation::Flush => volume.flush().await,
                    _ => volume.checkpoint().await,
                };
                durable.map_err(|error| chain(&error))?;
                lock(life).flushed(accepted)?;
                continue;
            }
        };
        let value = if *operation == Operation::Trim { 0 } else { lock(life).fresh_value() };
        let span = lock(life).issue(first, end, value);
        let done = match operation {
            Operation::Trim => volume.trim(first * SECTOR, (end - first) * SECTOR, false).await,
            _ => volume.write(first * SECTOR, content(first, end, value).into(), false).await,
        };
        done.map_err(|error| chain(&error))?;
        lock(life).accept(span);
    }
    Ok(())
}
