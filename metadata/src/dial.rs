//! How connections to members are made: by TCP, or by what a simulation has for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// A member on the same network answers at once or is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const PING: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// Makes the channel to an endpoint; nothing is connected before the first request.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>);

impl Dial {
    /// Connections that `connect` makes.
    pub fn by(connect: impl Fn(Endpoint) -> Channel + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
    }

    /// The channel to the gRPC server at `HOST:PORT`; `None` if that is no address.
    pub(crate) fn channel(&self, address: &str) -> Option<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        Some(
            self.connect(endpoint.http2_keep_alive_interval(PING).keep_alive_timeout(PING_TIMEOUT)),
        )
    }

    pub(crate) fn connect(&self, endpoint: Endpoint) -> Channel {
        (self.0)(endpoint)
    }
}

impl Default for Dial {
    /// Connections by TCP.
    fn default() -> Self {
        Self::by(|endpoint| endpoint.connect_lazy())
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}
