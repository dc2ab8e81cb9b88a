//! The one thread that writes to the log: takes what has queued up, writes it as one batch with
//! one sync, and answers in order. (In a simulation it is a task, which takes simulated time.)
//!
//! The first error is final: every later operation gets the same answer without touching the
//! disk. After a failed sync the kernel may drop the dirty pages, so that a second one succeeds
//! without the data (cockroachdb#37102).

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::storage::IOFlushed;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::TypeConfig;
use crate::storage::Pace;

/// Bytes after which a batch takes no further operations.
const BATCH_SIZE: usize = 4 << 20;

/// One change of the log, in the order in which it is to become durable.
pub(super) enum Op {
    Append {
        entries: Vec<(u64, Vec<u8>)>,
        sequence: u64,
        done: IOFlushed<TypeConfig>,
    },
    Vote {
        value: Vec<u8>,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Removes the entries `from..=last`.
    Truncate {
        from: u64,
        last: u64,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Removes the entries `from..=last` and notes `value` as the last purged ID.
    Purge {
        from: u64,
        last: u64,
        value: Vec<u8>,
    },
    Committed {
        value: Option<Vec<u8>>,
    },
}

impl Op {
    /// Whether openraft relies on it once it is answered. A purge and the committed ID may be
    /// lost: both only repeat what a snapshot file and the other members know.
    fn needs_sync(&self) -> bool {
        match self {
            Self::Append { .. } | Self::Vote { .. } | Self::Truncate { .. } => true,
            Self::Purge { .. } | Self::Committed { .. } => false,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(|(_, value)| value.len()).sum(),
            _ => 0,
        }
    }

    fn finish(self, result: io::Result<()>) {
        match self {
            Self::Append { done, .. } => done.io_completed(result),
            Self::Vote { done, .. } | Self::Truncate { done, .. } => {
                // Nobody waits any more when the node shuts down.
                drop(done.send(result));
            }
            Self::Purge { .. } | Self::Committed { .. } => {}
        }
    }
}

/// Writes a batch, with a sync if asked; returns once it is done.
pub(super) trait Sink: Send + 'static {
    fn write(&mut self, batch: &[Op], sync: bool) -> io::Result<()>;
    /// All appends up to `sequence` are durable.
    fn written(&mut self, sequence: u64);
}

/// The state of the writer, for the watchdog.
#[derive(Default)]
pub(crate) struct Health {
    failure: OnceLock<(io::ErrorKind, String)>,
    busy_since: Mutex<Option<Instant>>,
}

impl Health {
    /// The first error, again.
    fn check(&self) -> io::Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
        }
    }

    /// How long the write that is under way has taken so far.
    pub(crate) fn busy_for(&self) -> Duration {
        let since = self.busy_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(crate) fn set_busy(&self, busy: bool) {
        let since = busy.then(Instant::now);
        *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// The way to the thread or the task.
enum Queue {
    Thread(Sender<Op>),
    Task(UnboundedSender<Op>),
}

/// The handle on the thread.
pub(super) struct Writer {
    queue: Mutex<Option<Queue>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    health: Arc<Health>,
}

impl Writer {
    pub(super) fn start(sink: impl Sink) -> io::Result<Self> {
        let (queue, ops) = channel();
        let health = Arc::new(Health::default());
        let thread = {
            let health = health.clone();
            std::thread::Builder::new()
                .name("raft-log".to_owned())
                .spawn(move || run(&ops, sink, &health))?
        };
        let queue = Mutex::new(Some(Queue::Thread(queue)));
        Ok(Self { queue, thread: Mutex::new(Some(thread)), health })
    }

    /// As [`start`](Self::start), with a task of the present runtime in place of the thread.
    pub(super) fn simulate(sink: impl Sink, pace: Arc<dyn Pace>) -> Self {
        let (queue, ops) = unbounded_channel();
        let health = Arc::new(Health::default());
        tokio::spawn(run_simulated(ops, sink, health.clone(), pace));
        Self { queue: Mutex::new(Some(Queue::Task(queue))), thread: Mutex::new(None), health }
    }

    pub(super) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Queues an operation; an error if the writer has failed or is stopped.
    ///
    /// openraft bounds what is in flight, by the size of its own channels.
    pub(super) fn submit(&self, op: Op) -> io::Result<()> {
        self.health.check()?;
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let stopped = || io::Error::other("the log is closed");
        match queue.as_ref().ok_or_else(stopped)? {
            Queue::Thread(queue) => queue.send(op).map_err(|_| stopped()),
            Queue::Task(queue) => queue.send(op).map_err(|_| stopped()),
        }
    }

    /// Ends the thread after what is queued. (A task ends later, and finds the log closed.)
    pub(super) fn stop(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log writer panicked");
        }
    }
}

impl Drop for Writer {
    /// Waits for the thread, which has the database open: it must not be closing it while the
    /// process exits, because RocksDB's own globals are gone by then.
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(ops: &Receiver<Op>, mut sink: impl Sink, health: &Health) {
    while let Ok(first) = ops.recv() {
        let mut size = first.size();
        let mut batch = vec![first];
        while size < BATCH_SIZE {
            let Ok(op) = ops.try_recv() else { break };
            size += op.size();
            batch.push(op);
        }
        commit(batch, &mut sink, health);
    }
}

async fn run_simulated(
    mut ops: UnboundedReceiver<Op>,
    mut sink: impl Sink,
    health: Arc<Health>,
    pace: Arc<dyn Pace>,
) {
    while let Some(first) = ops.recv().await {
        let mut size = first.size();
        let mut batch = vec![first];
        while size < BATCH_SIZE {
            let Ok(op) = ops.try_recv() else { break };
            size += op.size();
            batch.push(op);
        }
        health.set_busy(true);
        pace.before_write(size).await;
        write(&batch, &mut sink, &health);
        pace.after_write().await;
        health.set_busy(false);
        finish(batch, &mut sink, &health);
    }
}

fn commit(batch: Vec<Op>, sink: &mut impl Sink, health: &Health) {
    health.set_busy(true);
    write(&batch, sink, health);
    health.set_busy(false);
    finish(batch, sink, health);
}

/// Writes a batch, unless an earlier one failed; notes whether it did.
fn write(batch: &[Op], sink: &mut impl Sink, health: &Health) {
    if health.check().is_ok()
        && let Err(err) = sink.write(batch, batch.iter().any(Op::needs_sync))
    {
        tracing::error!(error = %err, "writing the Raft log failed; it takes no more writes");
        health.failure.get_or_init(|| (err.kind(), err.to_string()));
    }
}

/// Answers a batch that was written, or was not.
fn finish(batch: Vec<Op>, sink: &mut impl Sink, health: &Health) {
    for op in batch {
        let result = health.check();
        if let (Op::Append { sequence, .. }, Ok(())) = (&op, &result) {
            sink.written(*sequence);
        }
        op.finish(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails the write with this number, counted from 1.
    struct Failing {
        number: u32,
        writes: Arc<Mutex<u32>>,
    }

    impl Sink for Failing {
        fn write(&mut self, _: &[Op], _: bool) -> io::Result<()> {
            let mut writes = self.writes.lock().unwrap();
            *writes += 1;
            if *writes == self.number { Err(io::Error::other("disk on fire")) } else { Ok(()) }
        }

        fn written(&mut self, _: u64) {}
    }

    #[test]
    fn the_first_error_is_final_and_nothing_is_written_after_it() {
        let writes = Arc::new(Mutex::new(0));
        let writer = Writer::start(Failing { number: 2, writes: writes.clone() }).unwrap();
        let vote = || {
            let (done, answer) = oneshot::channel();
            writer.submit(Op::Vote { value: Vec::new(), done })?;
            answer.blocking_recv().map_err(io::Error::other)?
        };
        assert!(vote().is_ok());
        for _ in 0..3 {
            assert_eq!(vote().map_err(|err| err.to_string()), Err("disk on fire".to_owned()));
        }
        writer.stop();
        assert_eq!(*writes.lock().unwrap(), 2);
        assert!(vote().is_err());
    }
}
