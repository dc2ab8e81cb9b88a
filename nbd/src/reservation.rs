//! A connection's share of the memory that all connections of a server may use for payloads.
//!
//! The first MiB belongs to each connection, so that small requests never wait for large ones of
//! others. Above it, shares are taken in steps from a common budget and given back when the
//! connection has nothing in flight.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The unit of the budget, in bytes.
const STEP: u64 = 1 << 20;

/// The budget of a server.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    steps: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    /// A budget of so many bytes, at least one step.
    pub(crate) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes / STEP).unwrap_or(u32::MAX >> 3).clamp(1, u32::MAX >> 3);
        Self { steps: Arc::new(Semaphore::new(total as usize)), total }
    }
}

type Waiting =
    Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send + 'static>>;

/// What one connection holds of the budget.
pub(crate) struct Reservation {
    budget: Budget,
    held: Option<OwnedSemaphorePermit>,
    waiting: Option<Waiting>,
}

impl Reservation {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, held: None, waiting: None }
    }

    fn steps(&self) -> u32 {
        self.held.as_ref().map_or(0, |held| u32::try_from(held.num_permits()).unwrap_or(u32::MAX))
    }

    /// Ready once the connection may use `bytes`. A connection alone may always use what it asks
    /// for, even if that is more than the budget.
    pub(crate) fn poll_cover(&mut self, bytes: u64, cx: &mut Context<'_>) -> Poll<()> {
        let needed = u32::try_from(bytes.saturating_sub(1) / STEP).unwrap_or(u32::MAX);
        let needed = needed.min(self.budget.total);
        loop {
            let held = self.steps();
            if held >= needed {
                return Poll::Ready(());
            }
            let missing = needed - held;
            let waiting = self.waiting.get_or_insert_with(|| {
                Box::pin(Arc::clone(&self.budget.steps).acquire_many_owned(missing))
            });
            let Poll::Ready(acquired) = waiting.as_mut().poll(cx) else { return Poll::Pending };
            self.waiting = None;
            // The semaphore is never closed; were it, nobody would keep to the budget.
            let Ok(acquired) = acquired else { return Poll::Ready(()) };
            match &mut self.held {
                Some(held) => held.merge(acquired),
                None => self.held = Some(acquired),
            }
        }
    }

    /// Gives everything back.
    pub(crate) fn release(&mut self) {
        self.held = None;
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::future::poll_fn;

    fn covers(reservation: &mut Reservation, bytes: u64) -> bool {
        poll_fn(|cx| reservation.poll_cover(bytes, cx)).now_or_never().is_some()
    }

    #[test]
    fn connections_share_the_budget() {
        let budget = Budget::new(4 * STEP);
        let [mut a, mut b] = [(); 2].map(|()| Reservation::new(budget.clone()));
        assert!(covers(&mut a, STEP), "the first step is free");
        assert_eq!(budget.steps.available_permits(), 4);
        assert!(covers(&mut a, 4 * STEP));
        assert!(covers(&mut b, 2 * STEP));
        assert!(!covers(&mut b, 3 * STEP), "the budget is used up");
        assert!(covers(&mut b, 2 * STEP), "what was covered stays covered");
        a.release();
        assert!(covers(&mut b, 3 * STEP));
        b.release();
        assert_eq!(budget.steps.available_permits(), 4);
    }

    #[test]
    fn more_than_the_budget_is_all_of_it() {
        let budget = Budget::new(2 * STEP);
        let mut a = Reservation::new(budget.clone());
        assert!(covers(&mut a, 32 * STEP));
        assert_eq!(budget.steps.available_permits(), 0);
    }
}
