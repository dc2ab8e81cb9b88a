//! Metrics and health over HTTP, for those who watch the daemon.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use torus_distributor::Status;

use super::storage::Storage;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `/metrics` and `/healthz` until `stop`.
pub(super) async fn serve(listener: TcpListener, storage: Arc<Storage>, stop: CancellationToken) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(storage);
    let served = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the HTTP server ended");
    }
}

/// 200 once the store is open, before that 503.
async fn health(State(storage): State<Arc<Storage>>) -> Response {
    match storage.status() {
        Some(_) => (StatusCode::OK, "ok\n").into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "not in a cluster yet\n").into_response(),
    }
}

async fn metrics(State(storage): State<Arc<Storage>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry(storage.status())) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn registry(status: Option<Status>) -> Registry {
    let mut registry = Registry::with_prefix("torus");
    let up = Gauge::<i64>::default();
    up.set(i64::from(status.is_some()));
    registry.register("storage_open", "Whether the store is open", up);
    let Some(status) = status else { return registry };
    let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, gauge),
            None => registry.register(name, help, gauge),
        }
    };
    gauge("storage_blocks", "Blocks that are stored", None, status.used_blocks);
    gauge("storage_blocks_total", "Blocks that fit", None, status.capacity_blocks);
    gauge("ring_version", "Version of the ring that is followed", None, status.ring);
    gauge("rebalance_blocks_unchecked", "Blocks still to look at", None, status.unchecked_blocks);
    gauge("rebalance_blocks_to_move", "Copies still to move", None, status.blocks_to_move);
    gauge("rebalance_blocks_moved", "Copies moved since the start", None, status.blocks_moved);
    gauge("rebalance_moved", "Sent since the start", Some(Unit::Bytes), status.bytes_moved);
    registry
}
