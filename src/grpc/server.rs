//! The gRPC door: translates, and guards the way in. Holds no rule.

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::LayerExt as _,
    transport::{
        Server,
        server::{Router, TcpIncoming},
    },
};
use tonic_health::{pb::health_server::HealthServer, server::HealthReporter};
use tower::ServiceBuilder;

use super::{layers, token_service};
use crate::{
    proto::{DESCRIPTORS, latchkey::token_service_server::TokenServiceServer},
    registry::TokenRegistry,
    telemetry::RpcDurations,
};

/// The name under which the token service reports its health.
pub const TOKEN_SERVICE: &str = "latchkey.v1.TokenService";

/// The name under which health says that the process answers, whatever becomes of the database: what to ask for before
/// it is restarted.
pub const LIVENESS: &str = "grpc.health.v1.Health";

/// What callers may ask of the door.
#[derive(Clone, Copy, Debug)]
pub struct GrpcLimits {
    /// How long a call may take.
    pub request_timeout: Duration,
    /// How many calls may be under way.
    pub concurrent_requests: usize,
    /// How many calls may be under way on one connection.
    pub streams: u32,
}

/// The largest message taken, in bytes. The largest that a well-formed request needs is a tenth of it.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
/// The largest set of headers taken, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// How many streams a peer may have reset before they were accepted (CVE-2023-44487), and how many this side may have
/// reset for a peer's faults, before the connection is closed.
const MAX_RESETS: usize = 20;
const MAX_FAULTS: usize = 100;
/// When a silent peer is asked for a sign of life, and how long it has for an answer.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves on `listener` until `stop`, then until the calls under way are done.
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
    router(registry, durations, health, limits)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
}

/// A histogram for the calls of the door.
///
/// # Errors
///
/// See [`RpcDurations::new`].
pub fn durations() -> Result<RpcDurations, prometheus::Error> {
    RpcDurations::new(&layers::method_names())
}

fn router(
    registry: Arc<TokenRegistry>,
    durations: RpcDurations,
    health: HealthReporter,
    limits: GrpcLimits,
) -> Router {
    let tokens = TokenServiceServer::new(token_service::TokenHandler { registry })
        .max_decoding_message_size(MAX_MESSAGE);
    let guarded = ServiceBuilder::new()
        .layer(layers::ObserveLayer { durations })
        .layer(layers::LoadShedLayer::new(limits.concurrent_requests))
        .layer(layers::DeadlineLayer { limit: limits.request_timeout })
        .map_response(layers::blame_the_request)
        .named_layer(tokens);
    let health = tonic_health::server::HealthService::from_health_reporter(health);
    let health = HealthServer::new(health).max_decoding_message_size(MAX_MESSAGE);
    let health = ServiceBuilder::new().map_response(layers::blame_the_request).named_layer(health);

    // Both versions: older clients ask for v1alpha alone. Health and reflection are not shed: an overloaded service
    // is not an unhealthy one.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // google.rpc.ErrorInfo and its like, so that grpcurl prints the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Server::builder()
        .max_concurrent_streams(limits.streams)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_FAULTS))
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(guarded)
        .add_service(health)
        .add_optional_service(reflection().build_v1().ok())
        .add_optional_service(reflection().build_v1alpha().ok())
}
