//! Many seeds, each in a process of its own, as many at a time as there are processors.

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::mutation::Mutation;
use crate::run::Report;

/// What became of the seeds so far.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) runs: u64,
    pub(crate) failures: Vec<Report>,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) events: u64,
    pub(crate) simulated: Duration,
    pub(crate) elapsed: Duration,
}

/// What must happen in a batch, or it shows nothing.
const EXPECTED: &[&str] = &[
    "a call had no answer",
    "a client crashed",
    "a client was cut off",
    "a crash lost writes that were not synced",
    "a lock was granted",
    "a member alone",
    "a member crashed",
    "a one-way partition",
    "a partition",
    "a session ended by itself",
    "a slow disk",
    "a snapshot was installed",
    "a stale token was refused",
    "a stuck disk",
    "a sync failed",
    "a voter crashed",
    "a watch went on elsewhere",
    "all members crashed at once",
    "messages held back",
    "the leader changed",
    "the leadership was handed over",
];

impl Batch {
    /// Runs the seeds from `first` on; with `to_first`, until one fails.
    pub(crate) fn run(
        first: u64,
        count: u64,
        mutation: Option<Mutation>,
        to_first: bool,
        mut tell: impl FnMut(&Self),
    ) -> io::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "how long the runs take in the real world")]
        let began = Instant::now();
        let mut batch = Self::default();
        let parallel = std::thread::available_parallelism()?.get();
        let mut seeds = first..first.saturating_add(count);
        let mut running: std::collections::VecDeque<(u64, Child)> = Default::default();
        loop {
            let found = to_first && !batch.failures.is_empty();
            while !found && running.len() < parallel {
                let Some(seed) = seeds.next() else { break };
                running.push_back((seed, start(seed, mutation)?));
            }
            let Some((seed, child)) = running.pop_front() else { break };
            batch.take(finish(seed, child)?);
            batch.elapsed = began.elapsed();
            tell(&batch);
        }
        batch.failures.sort_by_key(|report| report.seed);
        Ok(batch)
    }

    /// What never happened and should have.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        EXPECTED.iter().filter(|event| !self.counters.contains_key(**event)).copied().collect()
    }

    fn take(&mut self, report: Report) {
        self.runs += 1;
        self.events += report.events;
        self.simulated += Duration::from_millis(report.simulated_ms);
        for (event, count) in &report.counters {
            *self.counters.entry(event.clone()).or_default() += count;
        }
        if report.violation.is_some() {
            self.failures.push(report);
        }
    }
}

fn start(seed: u64, mutation: Option<Mutation>) -> io::Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--seed", &seed.to_string(), "--report"]);
    if let Some(mutation) = mutation {
        command.args(["--mutate", mutation.name()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

fn finish(seed: u64, child: Child) -> io::Result<Report> {
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = Report::parse(seed, &text);
    Ok(report.unwrap_or_else(|| Report {
        seed,
        violation: Some(format!("the process ended with {}", output.status)),
        ..Report::default()
    }))
}

impl Report {
    /// The lines in which a process tells the one that started it what came of a seed.
    pub(crate) fn lines(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let head = (self.hash, self.events, self.simulated_ms);
        // Writing to a string does not fail.
        let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").unwrap_or_default();
        line(format_args!("report\t{}\t{}\t{}", head.0, head.1, head.2));
        for (event, count) in &self.counters {
            line(format_args!("count\t{event}\t{count}"));
        }
        if let Some(violation) = &self.violation {
            line(format_args!("violation\t{}", violation.replace('\n', " ")));
        }
        line(format_args!("end"));
        text
    }

    fn parse(seed: u64, text: &str) -> Option<Self> {
        let mut report = Self { seed, ..Self::default() };
        let mut is_whole = false;
        for line in text.lines() {
            let parts: Vec<&str> = line.split('\t').collect();
            match parts[..] {
                ["report", hash, events, simulated_ms] => {
                    report.hash = hash.parse().ok()?;
                    report.events = events.parse().ok()?;
                    report.simulated_ms = simulated_ms.parse().ok()?;
                }
                ["count", event, count] => {
                    report.counters.insert(event.to_owned(), count.parse().ok()?);
                }
                ["violation", violation] => report.violation = Some(violation.to_owned()),
                ["end"] => is_whole = true,
                _ => return None,
            }
        }
        is_whole.then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_way_to_another_process() {
        let report = Report {
            seed: 7,
            hash: u64::MAX,
            events: 3,
            simulated_ms: 5,
            counters: [("a thing happened".to_owned(), 2)].into(),
            violation: Some("this\nand that".to_owned()),
        };
        let parsed = Report::parse(7, &report.lines()).unwrap();
        assert_eq!((parsed.hash, parsed.events, parsed.counters), (u64::MAX, 3, report.counters));
        assert_eq!(parsed.violation.as_deref(), Some("this and that"));
        assert!(Report::parse(7, "report\t1\t2\t3\n").is_none());
    }
}
