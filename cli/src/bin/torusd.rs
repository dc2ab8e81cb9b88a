//! The storage daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    torus_cli::failure::main(torus_cli::daemon::run)
}
