//! The daemon's runtimes, above all those that serve data.
//!
//! Each of their threads is a runtime by itself, and a connection stays with one: a request then never wakes a second
//! thread, which costs more than most requests do. In one runtime with several threads, tokio
//! wakes another whenever one finds work, so that it could help: with one thread in its place a
//! flushed write took 15 % less CPU time (`docs/performance.md`).

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime of so many threads.
pub(super) fn runtime(name: &str, threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()
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
