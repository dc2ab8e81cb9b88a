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
use std::str::FromStr;
use std::time::Duration;

use batch::Batch;
use clap::Parser;
use mutation::Mutation;
use run::{Report, simulate};

/// A batch shorter than this proves nothing by what did not happen in it.
const TELLING_SEEDS: u64 = 40;

/// Runs the metadata group in one process a seed, under simulated faults.
#[derive(Parser)]
struct Arguments {
    /// Runs one seed and prints every event.
    #[arg(long, conflicts_with_all = ["from", "seeds"])]
    seed: Option<u64>,
    /// The first seed of a batch.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Runs so many seeds.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    seeds: u64,
    /// Plants a bug, which must be found; all: one after another.
    #[arg(long, value_name = "NAME")]
    mutate: Option<Mutations>,
    /// Prints only what came of it.
    #[arg(long)]
    quiet: bool,
    /// Prints that for a program.
    #[arg(long)]
    report: bool,
}

#[derive(Clone)]
struct Mutations(Vec<Mutation>);

impl FromStr for Mutations {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "all" => Ok(Self(Mutation::ALL.to_vec())),
            name => Ok(Self(vec![name.parse()?])),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mutations = arguments.mutate.as_ref().map_or(&[][..], |it| &it.0);
    let is_right = match (&arguments.seed, mutations) {
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
    let count = arguments.seeds;
    let batch = Batch::run(arguments.from, count, None, false, |batch| {
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
    let (first, count) = (arguments.from, arguments.seeds);
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
