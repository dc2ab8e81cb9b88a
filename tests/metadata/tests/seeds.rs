//! The simulation of the metadata group in short: some tens of seeds, and that a seed says all.
#![expect(clippy::expect_used, reason = "tests fail by panicking, in their helpers too")]

use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_simulate-metadata");
    Command::new(program).args(arguments).output().expect("the simulation can be started")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn no_seed_breaks_a_promise_and_every_fault_happens() {
    let output = simulate(&["--seeds", "40", "--quiet"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_seed_gives_the_same_run_in_every_process() {
    for seed in ["1", "2", "3"] {
        // All that it prints, not only the hash.
        let [first, second] = [0, 1].map(|_| simulate(&["--seed", seed]));
        assert!(first.status.success(), "{}", text(&first));
        assert!(first.stdout == second.stdout, "seed {seed} went two ways");
    }
}

#[test]
fn other_seeds_give_other_runs() {
    let [first, second] = ["1", "2"].map(|seed| text(&simulate(&["--seed", seed, "--quiet"])));
    assert_ne!(first.split("trace").last(), second.split("trace").last());
}
