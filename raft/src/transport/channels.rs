//! The connections to the other members: made once, kept, repaired by tonic when they break.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use torus_dial::Dial;

use crate::config::MESSAGE_SIZE_MAX;
use crate::options::Identity;
use crate::storage::Blocking;
use crate::wire::proto::raft_client::RaftClient;

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection is for. Calls must not queue behind snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Calls,
    Snapshot,
}

/// Each connection with the address that it was made for.
type Open = BTreeMap<(u64, Lane), (String, Channel)>;

/// The connections of one node; clones share them.
#[derive(Clone)]
pub(crate) struct Channels {
    pub(super) from: Identity,
    pub(super) blocking: Blocking,
    pub(super) dial: Dial,
    open: Arc<Mutex<Open>>,
    refused: Arc<AtomicBool>,
}

impl Channels {
    pub(crate) fn new(from: Identity, dial: Dial, blocking: Blocking) -> Self {
        Self { from, blocking, dial, open: Arc::default(), refused: Arc::default() }
    }

    /// Notes that a message was refused as not meant for who got it.
    pub(super) fn note_refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether that happened since this was asked last.
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }

    /// A client of `node` at `address`. `None` if the address can be none of gRPC.
    pub(super) fn client(
        &self,
        node: u64,
        address: &str,
        lane: Lane,
    ) -> Option<RaftClient<Channel>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match open.get(&(node, lane)) {
            Some((at, channel)) if at == address => channel.clone(),
            _ => {
                let channel = self.dial.channel(&endpoint(address)?);
                open.insert((node, lane), (address.to_owned(), channel.clone()));
                channel
            }
        };
        let client = RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_SIZE_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_MAX);
        Some(client)
    }
}

/// Is connected at the first request, and again when the connection is lost.
fn endpoint(address: &str) -> Option<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    let endpoint = endpoint
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Some(endpoint)
}
