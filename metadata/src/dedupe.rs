//! The last answer to each client, so that a request that arrives twice is applied once.
//!
//! Part of the replicated state: which client is forgotten first depends on the log alone.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::machine::RequestId;
use crate::{Refusal, Response};

/// How many clients' last answers are kept.
const CLIENTS_MAX: usize = 10_000;

/// The answers, by client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answered {
    clients: BTreeMap<u128, Last>,
    /// The clients by the log index of their last request, each of which is one client's.
    by_use: BTreeMap<u64, u128>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Last {
    used: u64,
    sequence: u64,
    response: Response,
}

impl Answered {
    /// The answer to a request that stands at `index` of the log, if it is not a new one: that of
    /// its first time, or a refusal when the client has gone on since.
    pub(crate) fn recall(&mut self, index: u64, request: RequestId) -> Option<Response> {
        let last = self.clients.get_mut(&request.client)?;
        match request.sequence.cmp(&last.sequence) {
            Ordering::Greater => None,
            Ordering::Equal => {
                self.by_use.remove(&last.used);
                self.by_use.insert(index, request.client);
                last.used = index;
                Some(last.response.clone())
            }
            Ordering::Less => Some(Err(Refusal::Superseded)),
        }
    }

    /// Keeps the answer to the request that stands at `index` of the log.
    pub(crate) fn remember(&mut self, index: u64, request: RequestId, response: Response) {
        let RequestId { client, sequence } = request;
        let last = Last { used: index, sequence, response };
        if let Some(before) = self.clients.insert(client, last) {
            self.by_use.remove(&before.used);
        }
        self.by_use.insert(index, client);
        while self.clients.len() > CLIENTS_MAX
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.clients.remove(&oldest);
        }
    }

    /// All answers in the order of their use: log index, request, answer.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, RequestId, &Response)> {
        self.by_use.iter().filter_map(|(index, client)| {
            let last = self.clients.get(client)?;
            let request = RequestId { client: *client, sequence: last.sequence };
            Some((*index, request, &last.response))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_that_was_silent_longest_is_forgotten() {
        let mut answered = Answered::default();
        let request = |client| RequestId { client, sequence: 1 };
        let response = || Err(Refusal::NoSuchPeer);
        let mut index = 0;
        for client in 0..CLIENTS_MAX as u128 {
            index += 1;
            answered.remember(index, request(client), response());
        }
        // Asking again is use, so the next client is the one to go.
        assert_eq!(answered.recall(index + 1, request(0)), Some(response()));
        answered.remember(index + 2, request(u128::MAX), response());
        assert_eq!(answered.recall(index + 3, request(0)), Some(response()));
        assert_eq!(answered.recall(index + 4, request(1)), None);
        assert_eq!(answered.iter().count(), CLIENTS_MAX);
    }
}
