//! The HTTP server: its routes and its limits.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::FromRef,
    routing::{MethodRouter, get, post},
};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioTimer, service::TowerToHyperService};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{account_events, front::Front, health, metrics, replicas};
use crate::{
    account_events::EventCounts,
    caller::Callers,
    gateway::Gateway,
    kubernetes,
    listener::{self, Connection, Connections, Listener},
    oauth::{self, OAuth},
    page::{self, Page},
    registry::TokenRegistry,
    store::Store,
    telemetry::RpcDurations,
};

/// What the handlers share.
#[allow(missing_docs)]
#[derive(Debug)]
pub(crate) struct HttpState {
    pub registry: Arc<TokenRegistry>,
    pub gateway: Gateway,
    pub oauth: OAuth,
    pub page: Page,
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
        state.oauth.clone()
    }
}

impl FromRef<Arc<HttpState>> for Page {
    fn from_ref(state: &Arc<HttpState>) -> Self {
        state.page.clone()
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

/// How long the head of a request may take to arrive, including the time that the connection is idle before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves on `listener` until `stop` is cancelled and the requests in flight have ended.
pub(crate) async fn serve(
    tcp: TcpListener,
    listener: Listener,
    state: Arc<HttpState>,
    limits: HttpLimits,
    stop: CancellationToken,
) {
    let router =
        routes().into_iter().fold(Router::new(), |router, (path, method)| router.route(path, method));
    let front = Arc::new(Front::new(router.with_state(Arc::clone(&state)), state, limits));
    let http = http1();
    let connection = move |io, connection: Arc<Connection>| {
        let front = Arc::clone(&front);
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            Arc::clone(&front).answer(Arc::clone(&connection), request)
        });
        http.serve_connection(io, service)
    };
    listener::serve(tcp, listener, connection, stop).await;
}

/// Serves metrics, health and the list of replicas, as [`serve`] does.
pub(crate) async fn serve_admin(
    tcp: TcpListener,
    listener: Listener,
    state: Arc<HttpState>,
    stop: CancellationToken,
) {
    let (http, router) = (http1(), admin_router(state));
    let connection = move |io, _| http.serve_connection(io, TowerToHyperService::new(router.clone()));
    listener::serve(tcp, listener, connection, stop).await;
}

fn http1() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    http
}

/// Returns the routes that callers reach, but those that [`Front`] answers itself.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<HttpState>>)> {
    let mut routes = vec![
        ("/events", post(account_events::receive)),
        ("/oauth2/revoke", post(oauth::revoke)),
        ("/.well-known/oauth-authorization-server", get(oauth::metadata)),
        ("/.well-known/oauth-authorization-server/{*issuer}", get(oauth::metadata)),
        ("/kubernetes/token-review", post(kubernetes::review)),
    ];
    routes.extend(page::routes());
    routes
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::POLICY;

    #[test]
    fn every_route_is_in_the_policy() {
        let routes = routes().into_iter().map(|(path, _)| path);
        for path in routes.chain(Front::ROUTES) {
            let is = |name: &str| {
                name == path || name.strip_suffix('*').is_some_and(|begin| path.starts_with(begin))
            };
            assert!(POLICY.iter().any(|entry| is(entry.name)), "{path} is not in the policy");
        }
    }
}
