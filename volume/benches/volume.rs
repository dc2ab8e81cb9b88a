//! Runs the micro-benchmarks of the crate's inner parts: `cargo bench -p torus-volume --features bench`.

use criterion::{criterion_group, criterion_main};
use torus_volume::bench::{log, map, records};

criterion_group!(benches, records, map, log);
criterion_main!(benches);
