//! The log: to standard error, one line an event, filtered by `TORUS_LOG` or `--log`.

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Starts the log. `filter` is a level or a list as `info,torus_volume=debug`.
pub fn start(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(Failure::usage)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(true)
        .with_ansi(false)
        .init();
    Ok(())
}
