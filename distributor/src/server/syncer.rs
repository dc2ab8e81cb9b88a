//! The thread that syncs the store for everybody who waits for it.
//!
//! One sync serves all whose bytes were written before it began; whoever comes during it waits for
//! the next. So the disk sees one sync at a time, however many writers there are.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use super::Asker;
use crate::Response;
use crate::keeper::Keeper;
use crate::lock::lock;
use crate::outbox::Outbox;

/// The way to the thread, which ends when this is dropped and nobody waits any more.
pub(super) struct Syncer {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Response, Asker)>,
    closed: bool,
}

impl Syncer {
    pub(super) fn start(keeper: Arc<Keeper>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let name = "torus-sync".to_owned();
        thread::Builder::new().name(name).spawn(move || of_thread.run(&keeper))?;
        Ok(Self { shared })
    }

    /// Gives the answer after a sync that begins later than this call.
    pub(super) fn after_sync(&self, response: Response, asker: Asker) {
        lock(&self.shared.queue).waiting.push((response, asker));
        self.shared.filled.notify_one();
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        self.shared.filled.notify_one();
    }
}

impl Shared {
    fn run(&self, keeper: &Keeper) {
        loop {
            let batch = self.next_batch();
            if batch.is_empty() {
                return;
            }
            let synced = keeper.sync();
            let mut outboxes: Vec<Arc<Outbox>> = Vec::new();
            for (response, asker) in batch {
                if let Some(outbox) = asker.outbox()
                    && !outboxes.iter().any(|known| Arc::ptr_eq(known, &outbox))
                {
                    outboxes.push(outbox);
                }
                asker.answer(synced.clone().map(|()| response));
            }
            for outbox in outboxes {
                outbox.drive();
            }
        }
    }

    /// Waits for work; empty is the end.
    fn next_batch(&self) -> Vec<(Response, Asker)> {
        let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.closed;
        let queue = lock(&self.queue);
        let mut queue = self.filled.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut queue.waiting)
    }
}
