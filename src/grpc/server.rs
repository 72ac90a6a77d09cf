//! The gRPC server: its services, the layers around them, and the limits of its connections.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::http::{Request, Response},
    server::NamedService,
    service::{LayerExt as _, Routes},
};
use tonic_health::{pb::health_server::HealthServer, server::HealthReporter};
use tower::{Layer as _, Service, ServiceBuilder};

use super::{
    layers::{self, Chain, Direct, MiddlewareLayer},
    token_service,
};
use crate::{
    listener,
    proto::{
        DESCRIPTORS,
        latchkey::token_service_server::{SERVICE_NAME, TokenServiceServer},
    },
    registry::TokenRegistry,
    telemetry::RpcDurations,
};

/// The health service's name for the token service.
pub const TOKEN_SERVICE: &str = SERVICE_NAME;

/// The health service's name for the process itself. It is serving while the process answers, even if the database is
/// unavailable, so liveness checks ask for this name.
pub const LIVENESS: &str = "grpc.health.v1.Health";

/// Limits of the gRPC server.
#[derive(Clone, Copy, Debug)]
pub struct GrpcLimits {
    /// Maximum duration of a call.
    pub request_timeout: Duration,
    /// Maximum number of calls in flight.
    pub concurrent_requests: usize,
    /// Maximum number of calls in flight on one connection.
    pub streams: u32,
}

/// Maximum number of open connections.
const CONNECTIONS: usize = 65_536;
/// Maximum size of a request message, in bytes: ten times what the largest well-formed request needs.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
/// Maximum size of a request to reflection, in bytes. It asks for a name, and an error repeats that name.
const MAX_REFLECTION: usize = 512;
/// Maximum size of a request's headers, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// A connection is closed when its peer has reset more than this many streams before they were accepted
/// (CVE-2023-44487), or when this side has reset more than `MAX_PEER_ERRORS` streams for protocol errors of the peer.
const MAX_RESETS: usize = 20;
const MAX_PEER_ERRORS: usize = 100;
/// How long a connection may be idle before the peer is pinged, and how long the peer has to acknowledge the ping.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves on `listener` until `stop` is cancelled and the calls in flight have ended.
///
/// hyper serves the connections, and not tonic's own server, whose layers cost each call 2 µs (docs/performance.md).
pub async fn serve(
    listener: TcpListener,
    registry: Arc<TokenRegistry>,
    durations: RpcDurations,
    health: HealthReporter,
    limits: GrpcLimits,
    stop: CancellationToken,
) {
    let service = Direct(token_service(registry, durations, limits)).layer(other_services(health));
    let service =
        ServiceBuilder::new().map_request(|call: Request<Incoming>| call.map(Body::new)).service(service);
    let service = TowerToHyperService::new(service);
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_PEER_ERRORS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    listener::serve(listener, CONNECTIONS, |io| http.serve_connection(io, service.clone()), stop).await;
}

/// Returns the health service and reflection.
fn other_services(health: HealthReporter) -> Routes {
    let health = tonic_health::server::HealthService::from_health_reporter(health);
    let health = HealthServer::new(health).max_decoding_message_size(MAX_MESSAGE);
    let mut routes = Routes::new(corrected(health));

    // Older clients know only v1alpha. No load is shed from health and reflection: an overloaded service is not an
    // unhealthy one.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // google.rpc.ErrorInfo and the other details of errors, so that grpcurl can print them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    if let Ok(reflection) = reflection().build_v1() {
        let reflection = reflection.max_decoding_message_size(MAX_REFLECTION);
        routes = routes.add_service(corrected(reflection));
    }
    if let Ok(reflection) = reflection().build_v1alpha() {
        let reflection = reflection.max_decoding_message_size(MAX_REFLECTION);
        routes = routes.add_service(corrected(reflection));
    }
    routes.prepare()
}

/// Returns `service` with statuses that say whose error it was.
fn corrected<S>(
    service: S,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ NamedService
+ Clone
+ Send
+ Sync
+ 'static
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
{
    ServiceBuilder::new().map_response(layers::correct_status).named_layer(service)
}

/// Creates the histogram of the token service's calls.
///
/// # Errors
///
/// See [`RpcDurations::new`].
pub fn durations() -> Result<RpcDurations, prometheus::Error> {
    RpcDurations::new(&layers::method_names())
}

/// Returns the token service with the layers around it.
fn token_service(
    registry: Arc<TokenRegistry>,
    durations: RpcDurations,
    limits: GrpcLimits,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ NamedService
+ Clone
+ Send
+ 'static {
    let tokens = TokenServiceServer::new(token_service::TokenHandler { registry })
        .max_decoding_message_size(MAX_MESSAGE);
    let guard = Chain(
        layers::Observe { durations },
        Chain(
            layers::LoadShed::new(limits.concurrent_requests),
            Chain(layers::Deadline { limit: limits.request_timeout }, layers::CorrectStatus),
        ),
    );
    MiddlewareLayer::new(guard).named_layer(tokens)
}
