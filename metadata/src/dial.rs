//! The gRPC channels to the members.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use torus_dial::Dial;

const PING: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// The channel to the member at `HOST:PORT`; `None` if that is no address.
pub(crate) fn channel(dial: &Dial, address: &str) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    let endpoint = endpoint.http2_keep_alive_interval(PING).keep_alive_timeout(PING_TIMEOUT);
    Some(dial.channel(&endpoint))
}
