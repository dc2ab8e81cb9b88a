//! The size of an open volume, which may change: shared by its writer and its handles.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Size(Arc<AtomicU64>);

impl Size {
    pub(crate) fn new(size: u64) -> Self {
        Self(Arc::new(AtomicU64::new(size)))
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, size: u64) {
        self.0.store(size, Ordering::Release);
    }
}
