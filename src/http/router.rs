//! The HTTP server: its routes, their limits and their spans.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{FromRef, MatchedPath, Request, State},
    http::Method,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, any, get, post},
};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioTimer, service::TowerToHyperService};
use opentelemetry::trace::SpanKind;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tracing::{Instrument as _, field::Empty};

use super::{account_events, health, metrics, problem::Problem, replicas};
use crate::{
    account_events::EventCounts,
    caller::{AdmitLayer, Callers, Refusal},
    gateway::{self, Gateway},
    kubernetes,
    listener::{self, Connection, Connections, Listener},
    oauth::{self, Issuer, OAuth},
    store::Store,
    telemetry::{ENTRY, HttpHeaders, RpcDurations, enter},
};

/// What the handlers share.
#[allow(missing_docs)]
#[derive(Debug)]
pub(crate) struct HttpState {
    pub gateway: Gateway,
    pub issuer: Option<Issuer>,
    /// For metrics of its connection pools.
    pub store: Store,
    /// Durations of gRPC calls, for metrics.
    pub durations: RpcDurations,
    /// Who may call.
    pub callers: Arc<Callers>,
    pub events: Arc<EventCounts>,
    /// Whether this replica subscribes to events on NATS.
    pub subscribes: bool,
    /// Why this replica is not ready for calls; `None` if it is ready.
    pub unready: watch::Receiver<Option<String>>,
    /// The connections of each listener, for metrics.
    pub connections: [(&'static str, Arc<Connections>); 2],
}

impl FromRef<Arc<HttpState>> for Gateway {
    fn from_ref(state: &Arc<HttpState>) -> Self {
        state.gateway.clone()
    }
}

impl FromRef<Arc<HttpState>> for OAuth {
    fn from_ref(state: &Arc<HttpState>) -> Self {
        Self { registry: Arc::clone(&state.gateway.registry), issuer: state.issuer.clone() }
    }
}

/// Limits of `POST /events`.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Maximum duration of a request.
    pub request_timeout: Duration,
    /// Maximum number of requests in flight.
    pub concurrent_requests: usize,
}

/// Maximum size of a request body, in bytes: ten times what the largest well-formed event needs.
const MAX_BODY: usize = 64 * 1024;

/// How long the head of a request may take to arrive, including the time that the connection is idle before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// For gateways, which may put the client's path behind it.
const VERIFY: &str = "/verify";
const VERIFY_BELOW: &str = "/verify/{*path}";

/// Stands for every method that no route has. The name is from OpenTelemetry's conventions.
const OTHER: &str = "_OTHER";

/// Serves on `listener` until `stop` is cancelled and the requests in flight have ended.
pub(crate) async fn serve(
    tcp: TcpListener,
    listener: Listener,
    state: Arc<HttpState>,
    limits: HttpLimits,
    stop: CancellationToken,
) {
    serve_routes(tcp, listener, router(state, limits), stop).await;
}

/// Serves metrics, health and the list of replicas, as [`serve`] does.
pub(crate) async fn serve_admin(
    tcp: TcpListener,
    listener: Listener,
    state: Arc<HttpState>,
    stop: CancellationToken,
) {
    serve_routes(tcp, listener, admin_router(state), stop).await;
}

async fn serve_routes(tcp: TcpListener, listener: Listener, router: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let connection = move |io, connection: Arc<Connection>| {
        let service = ServiceBuilder::new().map_request(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&connection));
            request
        });
        http.serve_connection(io, TowerToHyperService::new(service.service(router.clone())))
    };
    listener::serve(tcp, listener, connection, stop).await;
}

fn router(state: Arc<HttpState>, limits: HttpLimits) -> Router {
    let bounds = Bounds {
        permits: Arc::new(Semaphore::new(limits.concurrent_requests)),
        timeout: limits.request_timeout,
    };
    let router =
        routes().into_iter().fold(Router::new(), |router, (path, method)| router.route(path, method));
    router
        .layer(from_fn_with_state(bounds, shed_load))
        .layer(AdmitLayer { callers: Arc::clone(&state.callers), refuse })
        .layer(from_fn(trace))
        .with_state(state)
}

/// Returns the routes that callers reach.
fn routes() -> [(&'static str, MethodRouter<Arc<HttpState>>); 8] {
    [
        ("/events", post(account_events::receive)),
        (VERIFY, any(gateway::verify)),
        (VERIFY_BELOW, any(gateway::verify)),
        ("/oauth2/introspect", post(oauth::introspect)),
        ("/oauth2/revoke", post(oauth::revoke)),
        ("/.well-known/oauth-authorization-server", get(oauth::metadata)),
        ("/.well-known/oauth-authorization-server/{*issuer}", get(oauth::metadata)),
        ("/kubernetes/token-review", post(kubernetes::review)),
    ]
}

/// Returns the routes of the admin listener, which callers do not reach. Unbounded: these never wait, and are needed most
/// during overload.
fn admin_router(state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/metrics", get(metrics::show))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/replicas", get(replicas::show))
        .with_state(state)
}

#[derive(Clone)]
struct Bounds {
    permits: Arc<Semaphore>,
    timeout: Duration,
}

fn refuse(refusal: &Refusal) -> Response {
    Problem::refused(refusal).into_response()
}

/// Bounds the number of requests in flight and the duration of each.
async fn shed_load(State(bounds): State<Bounds>, request: Request, next: Next) -> Response {
    let handle = async {
        // The body comes first: a sender that is slow must not hold a permit. A gateway may send that of its client, which is
        // not read.
        let (head, body) = request.into_parts();
        let body = if head.uri.path().starts_with(VERIFY) { Body::empty() } else { body };
        let body = match to_bytes(body, MAX_BODY).await {
            Ok(body) => body,
            Err(_) => return Problem::too_large(MAX_BODY).into_response(),
        };
        let Ok(_permit) = bounds.permits.try_acquire() else {
            return Problem::unavailable("the service is overloaded").into_response();
        };
        next.run(Request::from_parts(head, body.into())).await
    };
    tokio::time::timeout(bounds.timeout, handle)
        .await
        .unwrap_or_else(|_| Problem::unavailable("the request took longer than allowed").into_response())
}

/// Creates the span of a request, if it is traced, by OpenTelemetry's conventions for HTTP. A path without a route has
/// no span, since callers could invent any number of names.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::POLICY;

    #[test]
    fn every_route_is_in_the_policy() {
        for (path, _) in routes() {
            let path = path.replace("{*path}", "*").replace("{*issuer}", "*");
            assert!(POLICY.iter().any(|entry| entry.name == path), "{path} is not in the policy");
        }
    }
}
