//! Volumes for clients: an NBD server, and the kernel's own block devices.

use std::process::ExitCode;

fn main() -> ExitCode {
    torus_cli::failure::main(torus_cli::blk::run)
}
