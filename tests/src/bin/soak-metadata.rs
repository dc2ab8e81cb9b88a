//! The soak of the metadata service from the command line: one run after another.
#![expect(clippy::print_stdout, reason = "a command line program")]

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use torus_tests::Stopwatch;
use torus_tests::soak::{Form, Report, run};

/// Five daemons under faults, and whether what their clients saw is linearizable.
#[derive(Parser)]
struct Arguments {
    /// The first seed; each run takes the next.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    from: u64,
    /// For how long in all.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Harm in one run, which has a new group.
    #[arg(long, value_name = "SECONDS", default_value_t = 150)]
    run: u64,
}

fn main() -> ExitCode {
    let Arguments { from: mut seed, minutes, run: seconds } = Arguments::parse();
    let watch = Stopwatch::start();
    let mut total = Total::default();
    while total.is_clean && watch.elapsed() < Duration::from_secs(minutes * 60) {
        let report = run(seed, Form::Long(Duration::from_secs(seconds)));
        println!("{report}");
        total.add(&report);
        seed += 1;
    }
    println!("{total}");
    if total.is_clean && total.runs > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All runs that count: in each of them all kinds of harm were done.
struct Total {
    runs: u64,
    /// Runs in which something that was to happen did not.
    vacuous: u64,
    time: Duration,
    operations: u64,
    unanswered: u64,
    faults: BTreeMap<String, u64>,
    is_clean: bool,
}

impl Default for Total {
    fn default() -> Self {
        Self {
            runs: 0,
            vacuous: 0,
            time: Duration::ZERO,
            operations: 0,
            unanswered: 0,
            faults: BTreeMap::new(),
            is_clean: true,
        }
    }
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.is_clean &= report.violations.is_empty();
        if !report.vacuous.is_empty() {
            self.vacuous += 1;
            return;
        }
        self.runs += 1;
        self.time += report.time;
        self.operations += report.answered;
        self.unanswered += report.unanswered;
        for (fault, count) in report.faults() {
            *self.faults.entry(fault).or_default() += count;
        }
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, vacuous, operations, unanswered, .. } = self;
        let minutes = self.time.as_secs_f64() / 60.0;
        write!(
            f,
            "{runs} runs that count, {minutes:.1} minutes ({vacuous} do not): {operations} operations, \
             {unanswered} without an answer"
        )?;
        self.faults.iter().try_for_each(|(fault, count)| write!(f, ", {fault} {count}"))?;
        f.write_str(if self.is_clean { "; no violation" } else { "; VIOLATIONS" })
    }
}
