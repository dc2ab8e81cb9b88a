//! The deterministic simulation of the metadata group: real members on a simulated clock, network
//! and disks, all from one seed.
//!
//! Real are openraft, the members with their log, snapshots, transport, reads, sessions and
//! membership, the state machine, and the client. turmoil gives each host a runtime and a clock of
//! its own and carries their streams; [`disk`] forgets at a crash what was not synced; [`entropy`]
//! makes the rest of the process follow from the seed. [`client`] uses the service, [`nemesis`] does
//! harm, [`linear`] looks whether what the clients saw can be explained.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

mod batch;
mod chance;
mod client;
mod disk;
mod entropy;
mod history;
mod linear;
mod member;
mod models;
mod mutation;
mod nemesis;
mod network;
mod operator;
mod run;
mod swarm;
mod trace;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use batch::Batch;
use mutation::Mutation;
use run::{Report, simulate};

const USAGE: &str = "\
Runs the metadata group in one process a seed, under simulated faults.

usage: simulate-metadata [--from SEED] [--seeds COUNT] [--mutate NAME | --mutate all]
       simulate-metadata --seed SEED [--mutate NAME] [--quiet]

  --seed SEED     runs one seed and prints every event
  --from SEED     the first seed of a batch; otherwise 1
  --seeds COUNT   runs so many seeds (1000)
  --mutate NAME   plants a bug, which must be found; all: one after another
  --quiet         prints only what came of it
  --report        prints that for a program";

/// A batch shorter than this proves nothing by what did not happen in it.
const TELLING_SEEDS: u64 = 40;

#[derive(Default)]
struct Arguments {
    seed: Option<u64>,
    from: Option<u64>,
    seeds: Option<u64>,
    mutations: Vec<Mutation>,
    quiet: bool,
    report: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--seed" => arguments.seed = Some(number(&value()?)?),
                "--from" => arguments.from = Some(number(&value()?)?),
                "--seeds" => arguments.seeds = Some(number(&value()?)?),
                "--mutate" => match value()?.as_str() {
                    "all" => arguments.mutations = Mutation::ALL.to_vec(),
                    name => arguments.mutations.push(name.parse()?),
                },
                "--quiet" => arguments.quiet = true,
                "--report" => arguments.report = true,
                _ => return Err(format!("{word:?} is not known")),
            }
        }
        Ok(arguments)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let is_right = match (&arguments.seed, &arguments.mutations[..]) {
        (Some(seed), mutations) => Ok(one(*seed, mutations.first().copied(), &arguments)),
        (None, []) => many(&arguments),
        (None, mutations) => find_all(mutations, &arguments),
    };
    match is_right {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot run a seed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn one(seed: u64, mutation: Option<Mutation>, arguments: &Arguments) -> bool {
    let is_told = !arguments.quiet && !arguments.report;
    if is_told {
        // The members' own log, between the events.
        let log = tracing_subscriber::fmt().without_time().with_ansi(false);
        log.with_max_level(tracing::Level::INFO).init();
    }
    let report = simulate(seed, mutation, is_told);
    if arguments.report {
        print!("{}", report.lines());
        return report.violation.is_none();
    }
    for (event, count) in &report.counters {
        println!("{count:>10}  {event}");
    }
    println!(
        "seed {seed}: {} events in {:.1} simulated s, trace {:016x}",
        report.events,
        Duration::from_millis(report.simulated_ms).as_secs_f64(),
        report.hash
    );
    tell_failure(&report, mutation);
    report.violation.is_none()
}

fn tell_failure(report: &Report, mutation: Option<Mutation>) {
    let Some(violation) = &report.violation else { return };
    let mutate = mutation.map_or(String::new(), |it| format!(" --mutate {}", it.name()));
    println!("FAILED {violation}");
    println!("  again: simulate-metadata --seed {}{mutate}", report.seed);
}

fn many(arguments: &Arguments) -> std::io::Result<bool> {
    let mut told = Duration::ZERO;
    let mut failed = 0;
    let count = arguments.seeds.unwrap_or(1000);
    let batch = Batch::run(arguments.from.unwrap_or(1), count, None, false, |batch| {
        batch.failures[failed..].iter().for_each(|report| tell_failure(report, None));
        failed = batch.failures.len();
        if batch.elapsed > told + Duration::from_secs(20) && !arguments.quiet {
            told = batch.elapsed;
            println!("{}", summary(batch));
        }
    })?;
    for (event, count) in &batch.counters {
        println!("{count:>10}  {event}");
    }
    println!("{}", summary(&batch));
    let missing = batch.missing();
    let is_vacuous = batch.runs >= TELLING_SEEDS && !missing.is_empty();
    if is_vacuous {
        println!("FAILED these never happened: {}", missing.join(", "));
    }
    Ok(batch.failures.is_empty() && !is_vacuous)
}

fn summary(batch: &Batch) -> String {
    format!(
        "{} seeds, {} failed; {} events, {:.1} simulated hours in {:.1} s",
        batch.runs,
        batch.failures.len(),
        batch.events,
        batch.simulated.as_secs_f64() / 3600.0,
        batch.elapsed.as_secs_f64()
    )
}

/// Whether all of these planted bugs are found.
fn find_all(mutations: &[Mutation], arguments: &Arguments) -> std::io::Result<bool> {
    let mut missed = 0;
    for mutation in mutations {
        if !find(*mutation, arguments)? {
            missed += 1;
        }
    }
    Ok(missed == 0)
}

fn find(mutation: Mutation, arguments: &Arguments) -> std::io::Result<bool> {
    let name = mutation.name();
    if !mutation.is_available() {
        println!("{name}: needs a build with --features planted");
        return Ok(false);
    }
    let (first, count) = (arguments.from.unwrap_or(1), arguments.seeds.unwrap_or(1000));
    let batch = Batch::run(first, count, Some(mutation), true, |_| {})?;
    match batch.failures.first() {
        Some(report) => {
            println!(
                "{name}: found after {} seeds ({:.1} s), by seed {}: {}",
                report.seed + 1 - first,
                batch.elapsed.as_secs_f64(),
                report.seed,
                report.violation.as_deref().unwrap_or_default()
            );
            Ok(true)
        }
        None => {
            println!("{name}: NOT FOUND by {} seeds", batch.runs);
            Ok(false)
        }
    }
}
