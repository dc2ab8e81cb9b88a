//! The soak of the metadata service from the command line: one run after another.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use torus_tests::Stopwatch;
use torus_tests::soak::{Form, run};

const USAGE: &str = "\
Five daemons under faults, and whether what their clients saw is linearizable.

usage: soak-metadata [--from SEED] [--minutes M] [--run SECONDS]

  --from SEED    the first seed; otherwise 1. Each run takes the next
  --minutes M    for how long in all (30)
  --run SECONDS  harm in one run, which has a new group (150)";

fn main() -> ExitCode {
    match soak(std::env::args().skip(1)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn soak(mut words: impl Iterator<Item = String>) -> Result<bool, String> {
    let (mut seed, mut minutes, mut seconds) = (1, 30, 150);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let value: u64 = value.parse().map_err(|_| format!("{value:?} is no number"))?;
        match word.as_str() {
            "--from" => seed = value,
            "--minutes" => minutes = value,
            "--run" => seconds = value,
            _ => return Err(format!("{word:?} is not known")),
        }
    }
    let watch = Stopwatch::start();
    let (mut runs, mut operations, mut unanswered) = (0, 0, 0);
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    let mut failed = false;
    while !failed && watch.elapsed() < Duration::from_secs(minutes * 60) {
        let report = run(seed, Form::Long(Duration::from_secs(seconds)));
        println!("{report}");
        runs += 1;
        operations += report.answered;
        unanswered += report.unanswered;
        for (fault, count) in report.faults() {
            *faults.entry(fault).or_default() += count;
        }
        failed = !report.passed();
        seed += 1;
    }
    let minutes = watch.elapsed().as_secs_f64() / 60.0;
    let faults: Vec<_> = faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
    println!(
        "{runs} runs in {minutes:.1} minutes: {operations} operations, {unanswered} without an \
         answer; {}; {}",
        faults.join(", "),
        if failed { "FAILED" } else { "no violation" }
    );
    Ok(!failed)
}
