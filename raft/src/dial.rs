//! How connections to other members are made: by TCP, or by what a simulation has for it.

use std::fmt;
use std::sync::Arc;

use tonic::transport::{Channel, Endpoint};

/// Makes the channel to an endpoint; nothing is connected before the first request.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>);

impl Dial {
    /// Connections that `connect` makes.
    pub fn by(connect: impl Fn(Endpoint) -> Channel + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
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
