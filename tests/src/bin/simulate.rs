//! The simulation from the command line.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]
#![expect(clippy::disallowed_methods, reason = "how long the runs take in the real world")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use torus_tests::simulate::{
    Batch, Limit, Mutation, Report, enumerate_crashes, missing_events, simulate,
};

const USAGE: &str = "\
Runs volumes, peers, disks and metadata in one process under simulated faults.

usage: simulate [--from SEED] [--seeds COUNT | --minutes M] [--mutate NAME | --mutate all]
       simulate --seed SEED [--mutate NAME] [--quiet]
       simulate --enumerate

  --seed SEED     runs one seed and prints every event
  --from SEED     the first seed of a batch; otherwise 1
  --seeds COUNT   runs so many seeds (1000)
  --minutes M     runs for so long instead
  --mutate NAME   plants a bug, which must be found; all: one after another
  --enumerate     short workloads with a crash at each operation of the disks
  --quiet         prints only what came of it";

/// Seeds within which a planted bug must be found.
const MUTATION_SEEDS: u64 = 1000;
/// A batch shorter than this proves nothing by what did not happen in it.
const TELLING_SEEDS: u64 = 200;

#[derive(Default)]
struct Arguments {
    seed: Option<u64>,
    from: Option<u64>,
    seeds: Option<u64>,
    minutes: Option<f64>,
    mutations: Vec<Mutation>,
    enumerate: bool,
    quiet: bool,
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
                "--minutes" => {
                    let text = value()?;
                    let minutes = text.parse().ok().filter(|minutes: &f64| *minutes > 0.0);
                    arguments.minutes = Some(minutes.ok_or(format!("{text:?} are no minutes"))?);
                }
                "--mutate" => match value()?.as_str() {
                    "all" => arguments.mutations = Mutation::ALL.to_vec(),
                    name => {
                        arguments.mutations.push(name.parse().map_err(|e| format!("{e}"))?);
                    }
                },
                "--enumerate" => arguments.enumerate = true,
                "--quiet" => arguments.quiet = true,
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
        (None, Some(minutes)) => Limit::Time(Duration::from_secs_f64(minutes * 60.0)),
        (None, None) => Limit::Seeds(1000),
    };
    let mut told = Instant::now();
    let mut failed = 0;
    let batch = Batch::run(arguments.from.unwrap_or(1), limit, None, false, |batch| {
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
    let batch = Batch::run(arguments.from.unwrap_or(1), limit, Some(mutation), true, |_| {});
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
