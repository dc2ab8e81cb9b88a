//! Runs the micro-benchmarks of the crate's inner parts: `cargo bench -p torus-distributor --features bench`.

use criterion::{criterion_group, criterion_main};
use torus_distributor::bench::frames;

criterion_group!(benches, frames);
criterion_main!(benches);
