//! The HTTP door: translates, and guards the way in. Holds no rule.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::Method,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use opentelemetry::trace::SpanKind;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, field::Empty};

use super::{account_events, health, listener, metrics, problem::Problem};
use crate::{
    account_events::EventCounts,
    registry::TokenRegistry,
    store::Store,
    telemetry::{ENTRY, HttpHeaders, RpcDurations, enter},
};

/// What the door answers from.
#[derive(Debug)]
pub struct HttpState {
    /// The rules.
    pub registry: Arc<TokenRegistry>,
    /// The database, for the numbers of its connections.
    pub store: Store,
    /// The durations of gRPC calls.
    pub durations: RpcDurations,
    /// What became of the events.
    pub events: Arc<EventCounts>,
    /// Whether there is a subscriber.
    pub subscribes: bool,
    /// Why no calls should be sent here, if there is a reason.
    pub unready: watch::Receiver<Option<String>>,
}

/// What callers may ask of the door.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How many requests may be under way.
    pub concurrent_requests: usize,
}

/// The largest body taken, in bytes. The largest that a well-formed event needs is a tenth of it.
const MAX_BODY: usize = 64 * 1024;

/// What stands for a method that no route has: OpenTelemetry's word.
const OTHER: &str = "_OTHER";

/// Serves on `listener` until `stop`, then until the requests under way are done.
pub async fn serve(listener: TcpListener, state: HttpState, limits: HttpLimits, stop: CancellationToken) {
    listener::serve(listener, router(Arc::new(state), limits), stop).await;
}

fn router(state: Arc<HttpState>, limits: HttpLimits) -> Router {
    let guard =
        Guard { room: Arc::new(Semaphore::new(limits.concurrent_requests)), limit: limits.request_timeout };
    Router::new()
        .route("/events", post(account_events::receive))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(guard, admit))
        .layer(from_fn(trace))
        // Not under guard: they wait for nothing, and are needed most when there is too much to do.
        .route("/metrics", get(metrics::show))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .with_state(state)
}

#[derive(Clone)]
struct Guard {
    room: Arc<Semaphore>,
    limit: Duration,
}

/// Bounds how many requests are under way, and how long each may take.
async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let Ok(_place) = guard.room.try_acquire() else {
        return Problem::unavailable("the service has too much to do").into_response();
    };
    tokio::time::timeout(guard.limit, next.run(request))
        .await
        .unwrap_or_else(|_| Problem::unavailable("the request took longer than it may").into_response())
}

/// Makes the span of a request, if it is traced, by OpenTelemetry's conventions for HTTP. Of a path that leads nowhere
/// there is none: a caller could make up any number of names.
async fn trace(route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let Some(route) = route else { return next.run(request).await };
    let method = if request.method() == Method::POST { "POST" } else { OTHER };
    let span = enter(&HttpHeaders(request.headers()), SpanKind::Server, || {
        let route = route.as_str();
        tracing::info_span!(
            target: ENTRY,
            "http",
            otel.name = format!("{method} {route}"),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method,
            http.route = route,
            http.response.status_code = Empty,
            url.path = route,
            url.scheme = "http",
        )
    });
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    response
}
