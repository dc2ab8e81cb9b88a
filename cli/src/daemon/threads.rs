//! The daemon's runtimes, above all those that serve data.
//!
//! Each of their threads is a runtime by itself, and a connection stays with one: a request then
//! never wakes a second thread, which costs more than most requests do. In one runtime with several
//! threads, tokio wakes another whenever one finds work, so that it could help: with one thread in
//! its place a flushed write took 15 % less CPU time (`docs/performance.md`).

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;

/// As long as a write to the log may take.
const HANG: Duration = Duration::from_secs(30);

/// A runtime of so many threads.
pub(super) fn runtime(name: &str, threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()
}

/// Ends the process when `watched` runs nothing for so long that it must hang, as a thread does that
/// waits for a dead disk: it could not say so itself, and others would wait for it. Watches on `by`.
pub(super) fn guard(watched: Handle, by: &Handle) {
    by.spawn(async move {
        hang(&watched, HANG).await;
        tracing::error!("the thread of the metadata group hangs; the process ends");
        std::process::abort();
    });
}

/// Returns when `watched` has run nothing for `limit`.
async fn hang(watched: &Handle, limit: Duration) {
    loop {
        tokio::time::sleep(limit / 10).await;
        let mut sign = watched.spawn(async {});
        // A process that was stopped for a while finds the time over before the other thread has run.
        if timeout(limit, &mut sign).await.is_err() && timeout(limit / 10, sign).await.is_err() {
            return;
        }
    }
}

pub(super) struct DataThreads {
    runtimes: Vec<Runtime>,
    next: AtomicUsize,
}

impl DataThreads {
    /// As many as there are processors.
    pub(super) fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism()?.get();
        let runtimes = (0..count)
            .map(|index| runtime(&format!("data-{index}"), 1))
            .collect::<io::Result<_>>()?;
        Ok(Self { runtimes, next: AtomicUsize::new(0) })
    }

    /// For the next connection: one after another.
    pub(super) fn next(&self) -> Handle {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.runtimes[next % self.runtimes.len()].handle().clone()
    }

    /// Gives what runs there so much time altogether.
    pub(super) fn shutdown(self, time: Duration) {
        let each = time / u32::try_from(self.runtimes.len()).unwrap_or(u32::MAX);
        self.runtimes.into_iter().for_each(|runtime| runtime.shutdown_timeout(each));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_that_waits_for_something_dead_is_noticed() {
        let [watched, by] = ["watched", "by"].map(|name| runtime(name, 1).unwrap());
        let (release, gate) = channel::<()>();
        watched.spawn(async move { gate.recv() });
        let watching = hang(watched.handle(), Duration::from_millis(50));
        let noticed = by.block_on(async { timeout(HANG, watching).await });
        noticed.expect("it hangs");
        drop(release);
    }
}
