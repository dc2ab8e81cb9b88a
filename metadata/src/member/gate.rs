//! The place of the Raft transport in the daemon's routes, which are built before there is a node.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use torus_raft::Transport;

/// Passes requests to the node's transport once that exists.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<RwLock<Option<Transport>>>);

impl Gate {
    /// Opens the gate to a node, or closes it.
    pub(super) fn set(&self, transport: Option<Transport>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = transport;
    }

    pub(super) fn transport(&self) -> Option<Transport> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl NamedService for Gate {
    const NAME: &'static str = Transport::NAME;
}

impl Service<http::Request<Body>> for Gate {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.transport() {
            Some(mut transport) => transport.call(request),
            None => Box::pin(async {
                Ok(Status::unavailable("this daemon is in no cluster yet").into_http())
            }),
        }
    }
}
