//! The gRPC server: its services, the layers around them, and the limits of its connections.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
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
    audit_service::AuditHandler,
    authorization_service::AuthorizationHandler,
    connection_service::ConnectionService,
    layers::{self, Chain, Direct, MiddlewareLayer},
    token_service::TokenHandler,
    unsent_bytes::UnsentTotal,
};
use crate::{
    caller::Callers,
    gateway::Gateway,
    listener::{self, Connection, Listener, NewCalls},
    proto::{
        DESCRIPTORS,
        envoy::service::auth::v3::authorization_server::AuthorizationServer,
        latchkey::{
            audit_service_server::AuditServiceServer,
            token_service_server::{SERVICE_NAME, TokenServiceServer},
        },
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

/// What the services answer from.
#[derive(Debug)]
#[allow(missing_docs)]
pub(crate) struct Services {
    pub registry: Arc<TokenRegistry>,
    pub gateway: Gateway,
    pub removes_credential: bool,
    pub callers: Arc<Callers>,
    pub durations: RpcDurations,
    pub health: HealthReporter,
}

/// Maximum size of a request message, in bytes: ten times what the largest well-formed request needs.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
/// Maximum size of a request to reflection, in bytes. It asks for a name, and an error repeats that name.
pub(super) const MAX_REFLECTION: usize = 512;
/// Maximum size of a request's headers, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// A connection is closed when its peer has reset more than this many streams before they were accepted
/// (CVE-2023-44487), or when this side has reset more than `MAX_PEER_ERRORS` streams for protocol errors of the peer.
const MAX_RESETS: usize = 20;
const MAX_PEER_ERRORS: usize = 100;
/// How long a connection may be idle before the peer is pinged, and how long the peer has to acknowledge the ping.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a request's message may take to arrive.
const MAX_RECEIVE: Duration = Duration::from_secs(10);
/// How much a caller may send before it is read, in bytes: more than a message on a stream, and some of them on a connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How much of an answer is buffered for a stream, in bytes. The rest stays in the body, which is counted.
const SEND_BUFFER: usize = 32 * 1024;
/// Maximum size of a request message of the health service, in bytes.
const MAX_SMALL_MESSAGE: usize = 4 * 1024;

/// Serves on `listener` until `stop` is cancelled and the calls in flight have ended.
///
/// hyper serves the connections, and not tonic's own server, whose layers cost each call 2 µs (docs/performance.md).
pub(crate) async fn serve(
    tcp: TcpListener,
    listener: Listener,
    services: Services,
    limits: GrpcLimits,
    stop: CancellationToken,
) {
    let admit = layers::Admit { callers: Arc::clone(&services.callers) };
    let receive = layers::Receive::new(MAX_RECEIVE.min(limits.request_timeout), services.durations.clone());
    let unsent = UnsentTotal::default();
    let others = other_services(&services, unsent.clone(), limits);
    let others = Direct(authorization_service(&services, limits)).layer(others);
    let service = Direct(token_service(&services, unsent, limits)).layer(others);
    let service = admit.layer(receive.layer(service));
    let connection = move |io, connection: Arc<Connection>| {
        let http = http2(connection.calls.clone(), limits);
        http.serve_connection(io, ConnectionService::new(service.clone(), connection))
    };
    listener::serve(tcp, listener, connection, stop).await;
}

/// Returns the limits of a connection, whose calls run in `calls`.
fn http2(calls: NewCalls, limits: GrpcLimits) -> http2::Builder<NewCalls> {
    let mut http = http2::Builder::new(calls);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_PEER_ERRORS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    http
}

/// Returns the audit service, the health service and reflection.
fn other_services(services: &Services, unsent: UnsentTotal, limits: GrpcLimits) -> Routes {
    let audit = AuditServiceServer::new(AuditHandler { registry: Arc::clone(&services.registry), unsent })
        .max_decoding_message_size(MAX_MESSAGE);
    let audit = guard(services, limits).named_layer(audit);
    let health = tonic_health::server::HealthService::from_health_reporter(services.health.clone());
    let health = HealthServer::new(health).max_decoding_message_size(MAX_SMALL_MESSAGE);
    let health = small(health, MAX_SMALL_MESSAGE);
    let mut routes = Routes::new(health).add_service(audit);

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
        routes =
            routes.add_service(small(reflection.max_decoding_message_size(MAX_REFLECTION), MAX_REFLECTION));
    }
    if let Ok(reflection) = reflection().build_v1alpha() {
        routes =
            routes.add_service(small(reflection.max_decoding_message_size(MAX_REFLECTION), MAX_REFLECTION));
    }
    routes.prepare()
}

/// Returns a service whose messages have `limit` bytes at most, with statuses that say whose error it was.
fn small<S>(
    service: S,
    limit: usize,
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
    let correct = move |response| layers::correct_status(response, limit);
    ServiceBuilder::new().map_response(correct).named_layer(service)
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
    services: &Services,
    unsent: UnsentTotal,
    limits: GrpcLimits,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ NamedService
+ Clone
+ Send
+ 'static {
    let tokens = TokenServiceServer::new(TokenHandler { registry: Arc::clone(&services.registry), unsent })
        .max_decoding_message_size(MAX_MESSAGE);
    guard(services, limits).named_layer(tokens)
}

/// Returns the service that gateways ask, with the layers around it.
fn authorization_service(
    services: &Services,
    limits: GrpcLimits,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ NamedService
+ Clone
+ Send
+ 'static {
    let gateway = services.gateway.clone();
    let handler = AuthorizationHandler { gateway, removes_credential: services.removes_credential };
    let checks = AuthorizationServer::new(handler).max_decoding_message_size(MAX_MESSAGE);
    guard(services, limits).named_layer(checks)
}

/// Returns the layers around a service of this package. Each has permits of its own.
fn guard(services: &Services, limits: GrpcLimits) -> MiddlewareLayer<Guard> {
    MiddlewareLayer::new(Chain(
        layers::Observe { durations: services.durations.clone() },
        Chain(
            layers::LoadShed::new(limits.concurrent_requests),
            Chain(layers::Deadline { limit: limits.request_timeout }, layers::CorrectStatus),
        ),
    ))
}

type Guard = Chain<layers::Observe, Chain<layers::LoadShed, Chain<layers::Deadline, layers::CorrectStatus>>>;
