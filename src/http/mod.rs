//! The HTTP door: translates, and guards the way in. Holds no rule.

mod events;
mod problem;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::post,
    serve::ListenerExt as _,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use self::problem::Problem;
use crate::registry::TokenRegistry;

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

/// Serves on `listener` until `stop`, then until the requests under way are done.
///
/// # Errors
///
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<TokenRegistry>,
    limits: HttpLimits,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // It is only slower without.
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, router(registry, limits)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(registry: Arc<TokenRegistry>, limits: HttpLimits) -> Router {
    let guard =
        Guard { room: Arc::new(Semaphore::new(limits.concurrent_requests)), limit: limits.request_timeout };
    Router::new()
        .route("/events", post(events::receive))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(guard, admit))
        .with_state(registry)
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
