//! The gRPC server: its services, the layers around them, and the limits of its connections.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::http::{Request, Response},
    server::NamedService,
    service::LayerExt as _,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{pb::health_server::HealthServer, server::HealthReporter};
use tower::{Service, ServiceBuilder};

use super::{
    layers::{self, Chain, Direct, MiddlewareLayer},
    token_service,
};
use crate::{
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

/// Maximum size of a request message, in bytes: ten times what the largest well-formed request needs.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
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
/// # Errors
///
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<TokenRegistry>,
    durations: RpcDurations,
    health: HealthReporter,
    limits: GrpcLimits,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(KEEPALIVE));
    let tokens = token_service(registry, durations, limits);
    let health = tonic_health::server::HealthService::from_health_reporter(health);
    let health = HealthServer::new(health).max_decoding_message_size(MAX_MESSAGE);
    let health = ServiceBuilder::new().map_response(layers::correct_status).named_layer(health);

    // Older clients know only v1alpha. No load is shed from health and reflection: an overloaded service is not an
    // unhealthy one.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // google.rpc.ErrorInfo and the other details of errors, so that grpcurl can print them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Server::builder()
        .layer(Direct(tokens))
        .max_concurrent_streams(limits.streams)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_PEER_ERRORS))
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health)
        .add_optional_service(reflection().build_v1().ok())
        .add_optional_service(reflection().build_v1alpha().ok())
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
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
