//! A client that writes and flushes in the background until it is told to stop, or cannot.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use torus_tests::{History, NbdClient, Random, Stopwatch, wait_until};

const BOUND: Duration = Duration::from_secs(60);

/// One write of some kind.
type Write = fn(&mut History, &mut NbdClient, &mut Random) -> io::Result<()>;

/// The client, running.
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<(History, io::Result<()>)>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    /// The last write that was acknowledged, and the last one that was begun.
    written: AtomicU64,
    begun: AtomicU64,
    longest_pause_us: AtomicU64,
}

/// What the client has to tell.
pub(crate) struct Report {
    pub(crate) history: History,
    /// The first error, if there was one.
    pub(crate) result: io::Result<()>,
    /// The longest time that one request took.
    pub(crate) longest_pause: Duration,
}

impl Load {
    /// Goes on with `history`; a flush comes after 1 to 16 writes.
    pub(crate) fn start(client: NbdClient, history: History, random: Random) -> Self {
        Self::of(History::write, client, history, random)
    }

    /// The same with writes through, trims and zeroes among the writes.
    pub(crate) fn mixed(client: NbdClient, history: History, random: Random) -> Self {
        Self::of(History::mixed, client, history, random)
    }

    fn of(write: Write, mut client: NbdClient, mut history: History, mut random: Random) -> Self {
        let shared = Arc::new(Shared::default());
        shared.written.store(history.issued(), Ordering::SeqCst);
        shared.begun.store(history.issued(), Ordering::SeqCst);
        let seen = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut work = || {
                while !seen.stop.load(Ordering::Relaxed) {
                    for _ in 0..random.within(1..17) {
                        seen.begun.store(history.issued() + 1, Ordering::SeqCst);
                        seen.measure(|| write(&mut history, &mut client, &mut random))?;
                        seen.written.store(history.issued(), Ordering::SeqCst);
                    }
                    seen.measure(|| history.flush(&mut client))?;
                }
                Ok(())
            };
            let result = work();
            (history, result)
        });
        Self { shared, thread }
    }

    /// Waits until `count` more requests were acknowledged.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: u64) {
        let acknowledged = || self.shared.acknowledged.load(Ordering::Relaxed);
        let goal = acknowledged() + count;
        wait_until(&format!("{goal} requests are acknowledged"), BOUND, || {
            assert!(!self.thread.is_finished(), "the client had an error");
            if acknowledged() >= goal { Ok(()) } else { Err(acknowledged()) }
        });
    }

    /// The last write that is acknowledged by now: what is asked for from now on shows it.
    pub(crate) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::SeqCst)
    }

    /// The last write that is begun by now: what has ended shows none after it.
    pub(crate) fn begun(&self) -> u64 {
        self.shared.begun.load(Ordering::SeqCst)
    }

    /// Asks the client to stop after its next flush, if it has had no error before.
    pub(crate) fn finish(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        let (history, result) = self.thread.join().expect("the client does not panic");
        let longest_pause =
            Duration::from_micros(self.shared.longest_pause_us.load(Ordering::Relaxed));
        Report { history, result, longest_pause }
    }
}

impl Shared {
    fn measure(&self, request: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let watch = Stopwatch::start();
        let result = request();
        let took = u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.longest_pause_us.fetch_max(took, Ordering::Relaxed);
        self.acknowledged.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
        result
    }
}
