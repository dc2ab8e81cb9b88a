//! How the programs are told to stop: SIGTERM and SIGINT close in order, a second one at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// A token that the first SIGTERM or SIGINT cancels; the second ends the process with code 130.
/// Must be called on a tokio runtime.
pub fn token() -> Result<CancellationToken, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let told = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if told.is_cancelled() {
                tracing::warn!("stopped at once by a second signal");
                std::process::exit(130);
            }
            told.cancel();
        }
    });
    Ok(token)
}
