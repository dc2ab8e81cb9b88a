//! The simulation from the command line.
#![expect(clippy::print_stdout, reason = "a command line program")]
#![expect(clippy::disallowed_methods, reason = "how long the runs take in the real world")]

use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::Parser;
use torus_tests::simulate::{
    Batch, Limit, Mutation, NoSuchMutation, Report, enumerate_crashes, missing_events, simulate,
};

/// Seeds within which a planted bug must be found.
const MUTATION_SEEDS: u64 = 1000;
/// A batch shorter than this proves nothing by what did not happen in it.
const TELLING_SEEDS: u64 = 200;

/// Runs volumes, peers, disks and metadata in one process under simulated faults.
#[derive(Parser)]
struct Arguments {
    /// Runs one seed and prints every event.
    #[arg(long, conflicts_with_all = ["from", "seeds", "minutes", "enumerate"])]
    seed: Option<u64>,
    /// The first seed of a batch.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Runs so many seeds; 1000, unless told.
    #[arg(long, value_name = "COUNT")]
    seeds: Option<u64>,
    /// Runs for so long instead.
    #[arg(long, conflicts_with_all = ["seeds", "mutate"], value_parser = minutes)]
    minutes: Option<Duration>,
    /// Plants a bug, which must be found; all: one after another.
    #[arg(long, value_name = "NAME")]
    mutate: Option<Mutations>,
    /// Plays short workloads with a crash at each operation of the disks.
    #[arg(long)]
    enumerate: bool,
    /// Prints only what came of it.
    #[arg(long)]
    quiet: bool,
}

#[derive(Clone)]
struct Mutations(Vec<Mutation>);

impl FromStr for Mutations {
    type Err = NoSuchMutation;

    fn from_str(name: &str) -> Result<Self, NoSuchMutation> {
        match name {
            "all" => Ok(Self(Mutation::ALL.to_vec())),
            name => Ok(Self(vec![name.parse()?])),
        }
    }
}

fn minutes(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(|minutes: f64| minutes * 60.0).unwrap_or(f64::NAN);
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} are no minutes"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mutations = arguments.mutate.as_ref().map_or(&[][..], |it| &it.0);
    let is_right = match (&arguments.seed, mutations) {
        _ if arguments.enumerate => enumerate(),
        (Some(seed), mutations) => one(*seed, mutations.first().copied(), !arguments.quiet),
        (None, []) => many(&arguments),
        (None, mutations) => {
            let missed = mutations.iter().filter(|it| !find(**it, &arguments)).count();
            missed == 0
        }
    };
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, mutation: Option<Mutation>, is_told: bool) -> bool {
    let report = simulate(seed, mutation, is_told);
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
    println!("  again: simulate --seed {}{mutate}", report.seed);
}

fn many(arguments: &Arguments) -> bool {
    let limit = match (arguments.seeds, arguments.minutes) {
        (Some(seeds), _) => Limit::Seeds(seeds),
        (None, Some(minutes)) => Limit::Time(minutes),
        (None, None) => Limit::Seeds(1000),
    };
    let mut told = Instant::now();
    let mut failed = 0;
    let batch = Batch::run(arguments.from, limit, None, false, |batch| {
        batch.failures[failed..].iter().for_each(|report| tell_failure(report, None));
        failed = batch.failures.len();
        if told.elapsed() > Duration::from_secs(20) && !arguments.quiet {
            told = Instant::now();
            println!("{}", summary(batch));
        }
    });
    for (event, count) in &batch.counters {
        println!("{count:>10}  {event}");
    }
    println!("{}", summary(&batch));
    let missing = missing_events(&batch);
    let is_vacuous = batch.runs >= TELLING_SEEDS && !missing.is_empty();
    if is_vacuous {
        println!("FAILED these never happened: {}", missing.join(", "));
    }
    batch.failures.is_empty() && !is_vacuous
}

fn summary(batch: &Batch) -> String {
    format!(
        "{} seeds, {} failed; {} events, {:.1} simulated hours in {:.1} s: {:.1} hours a minute",
        batch.runs,
        batch.failures.len(),
        batch.events,
        batch.simulated.as_secs_f64() / 3600.0,
        batch.elapsed.as_secs_f64(),
        batch.rate()
    )
}

/// Whether a planted bug is found.
fn find(mutation: Mutation, arguments: &Arguments) -> bool {
    if !mutation.is_available() {
        println!("{:>3}: needs a build with --features planted", mutation.name());
        return false;
    }
    let limit = Limit::Seeds(arguments.seeds.unwrap_or(MUTATION_SEEDS));
    let batch = Batch::run(arguments.from, limit, Some(mutation), true, |_| {});
    let name = mutation.name();
    match batch.failures.first() {
        Some(report) => {
            println!(
                "{name:>3}: found after {} seeds ({:.1} s), by seed {}: {}",
                batch.runs,
                batch.elapsed.as_secs_f64(),
                report.seed,
                report.violation.as_deref().unwrap_or_default()
            );
            true
        }
        None => {
            println!("{name:>3}: NOT FOUND by {} seeds", batch.runs);
            false
        }
    }
}

fn enumerate() -> bool {
    let began = Instant::now();
    let found = enumerate_crashes();
    for failure in &found.failures {
        println!("FAILED {failure}");
    }
    println!(
        "{} workloads, {} crashed states, {} failed, in {:.1} s",
        found.workloads,
        found.states,
        found.failures.len(),
        began.elapsed().as_secs_f64()
    );
    found.failures.is_empty()
}
