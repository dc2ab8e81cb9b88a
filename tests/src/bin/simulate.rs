//! The simulation from the command line: `simulate --seed N`, `--seeds COUNT`, `--minutes M`.

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let seed = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    let count = arguments.get(2).and_then(|text| text.parse().ok()).unwrap_or(0);
    let mutation = arguments.get(3).map(|name| name.parse().unwrap_or_else(|e| panic!("{e}")));
    if count == 0 {
        println!("{:#?}", torus_tests::simulate::simulate(seed, mutation, true));
        return;
    }
    let batch = torus_tests::simulate::Batch::run(
        seed,
        torus_tests::simulate::Limit::Seeds(count),
        mutation,
        false,
        |_| {},
    );
    println!("{:#?}", batch.counters);
    for failure in &batch.failures {
        println!(
            "{} {:x} {}",
            failure.seed,
            failure.hash,
            failure.violation.as_deref().unwrap_or("")
        );
    }
    println!(
        "{} runs {} failures {:?} rate {}",
        batch.runs,
        batch.failures.len(),
        batch.elapsed,
        batch.rate()
    );
    println!("missing {:?}", torus_tests::simulate::missing_events(&batch));
}
