//! The deterministic simulation in short: a few hundred seeds, and that a seed says all.

use std::time::Duration;

use torus_tests::binary;
use torus_tests::run;
use torus_tests::simulate::{Batch, Limit, Mutation, missing_events, simulate};

/// How long the seeds run.
const TIME: Duration = Duration::from_secs(30);
/// A batch of so many seeds must have met everything.
const TELLING: u64 = 150;

#[test]
fn no_seed_breaks_a_promise() {
    let batch = Batch::run(1, Limit::Time(TIME), None, false, |_| {});
    println!("{} seeds, {:.1} simulated hours a minute", batch.runs, batch.rate());
    let failed: Vec<_> = batch
        .failures
        .iter()
        .map(|report| {
            format!("seed {}: {}", report.seed, report.violation.as_deref().unwrap_or(""))
        })
        .collect();
    assert!(failed.is_empty(), "again with simulate --seed SEED:\n{}", failed.join("\n"));
    let missing = missing_events(&batch);
    assert!(batch.runs < TELLING || missing.is_empty(), "these never happened: {missing:?}");
}

#[test]
fn a_seed_gives_the_same_run_in_every_process() {
    for seed in 1..=6_u64 {
        let here = format!("trace {:016x}", simulate(seed, None, false).hash);
        let arguments = ["--seed".to_owned(), seed.to_string(), "--quiet".to_owned()];
        let other = run(&binary("simulate"), arguments, Duration::from_secs(60)).success();
        assert!(
            other.stdout.contains(&here),
            "seed {seed}: {here}, and elsewhere {}",
            other.stdout
        );
    }
}

#[test]
fn planted_bugs_are_found() {
    // The quick ones; `simulate --mutate all` plants the others too.
    for mutation in [Mutation::FuaIgnored, Mutation::HeadNotDurable, Mutation::AnyCopy] {
        let batch = Batch::run(1, Limit::Seeds(200), Some(mutation), true, |_| {});
        assert!(!batch.failures.is_empty(), "{} was not found", mutation.name());
    }
}
