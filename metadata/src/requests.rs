//! The identities under which a client's commands are repeated.
//!
//! The service remembers only the last answer to each client. So a client that has several commands
//! under way is, to the service, several: each command in flight has a lane of its own.

use std::sync::{Mutex, PoisonError};

use crate::machine::RequestId;

/// Lanes that are kept for the next command.
const IDLE_MAX: usize = 64;

/// The lanes that are free.
#[derive(Default)]
pub(crate) struct Requests {
    free: Mutex<Vec<RequestId>>,
}

impl Requests {
    /// An identity for a new command, which the caller alone has.
    pub(crate) fn begin(&self) -> RequestId {
        let lane = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let lane = lane.unwrap_or_else(|| RequestId { client: rand::random(), sequence: 0 });
        RequestId { sequence: lane.sequence + 1, ..lane }
    }

    /// The command was answered, and will not be repeated. A lane whose command was given up is
    /// not returned: a copy of it may still be under way.
    pub(crate) fn end(&self, request: RequestId) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < IDLE_MAX {
            free.push(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_flight_never_share_a_lane() {
        let requests = Requests::default();
        let (first, second) = (requests.begin(), requests.begin());
        assert_ne!(first.client, second.client);
        requests.end(first);
        let third = requests.begin();
        assert_eq!((third.client, third.sequence), (first.client, first.sequence + 1));
    }
}
