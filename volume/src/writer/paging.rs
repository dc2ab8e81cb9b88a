//! Reading parts of the map that are not in memory, and the requests that wait for them.

use bytes::Bytes;

use super::{Event, Request, Writer};
use crate::Error;
use crate::checkpoint::LoadError;
use crate::map::Name;

impl Writer {
    /// Reads what the map wants, and drops what it can do without.
    pub(super) fn start_loads(&mut self) {
        for (name, place) in self.map.take_wanted() {
            let context = self.context.clone();
            self.push_event(
                async move { Event::Arrived { name, bytes: context.load(place).await } },
            );
        }
        // The index names places in the checkpoint on its way that are not written yet.
        let not_in = self.checkpoint.as_ref().map(|checkpoint| checkpoint.head.inode_ref());
        if !self.is_crammed && !self.map.evict(self.options.map_bytes, not_in) {
            // What is not stored cannot be dropped.
            self.is_crammed = true;
            self.checkpoint_due = true;
        }
    }

    pub(super) fn arrived(&mut self, name: Name, bytes: Result<Bytes, LoadError>) {
        let arrived = bytes.and_then(|bytes| {
            let inode = self.head.inode_ref();
            self.map.arrived(name, &bytes).ok_or(LoadError::Format { inode })
        });
        match arrived {
            Ok(()) => self.retry_parked(),
            Err(error) => self.fail(error.into()),
        }
    }

    /// Lets a request wait for the map.
    pub(super) fn park(&mut self, request: Request) {
        match &self.failed {
            Some(error) => request.refuse(error),
            None => self.parked.push(request),
        }
    }

    /// Tries everything again that waited for the map, in its order.
    pub(super) fn retry_parked(&mut self) {
        for request in std::mem::take(&mut self.parked) {
            self.request(request);
        }
        match (self.edge_waiting.take(), &self.failed) {
            (Some(write), Some(error)) => {
                let error = error.clone();
                self.edges_read(write, Err(error));
            }
            (Some(write), None) => self.write_unaligned(write),
            (None, _) => {}
        }
    }

    /// Whether pages can be looked up now. What is known of a volume that failed can still be read,
    /// unless another opener may have written meanwhile.
    pub(super) fn is_ready(&mut self, page: u64, count: u32) -> Result<bool, Error> {
        if let Some(error @ Error::TakenOver { .. }) = &self.failed {
            return Err(error.clone());
        }
        match (self.map.ready(page, count), &self.failed) {
            (false, Some(error)) => Err(error.clone()),
            (ready, _) => Ok(ready),
        }
    }
}
