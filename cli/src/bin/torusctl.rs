//! Administration of a cluster.

use std::process::ExitCode;

fn main() -> ExitCode {
    torus_cli::failure::main(torus_cli::ctl::run)
}
