//! Takes connections: a bounded number, each with a bounded time for the head of a request.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

/// How many connections may be open; further ones wait to be taken.
const CONNECTIONS: usize = 1_024;
/// How long the head of a request may take to arrive, and how long a connection may lie idle before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be taken, for want of file descriptors for instance.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, then until the requests under way are done.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let (room, open) = (Arc::new(Semaphore::new(CONNECTIONS)), GracefulShutdown::new());
    let service = TowerToHyperService::new(router);
    while let Some(taken) = stop.run_until_cancelled(take(&listener, &room)).await {
        let (stream, place) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service.clone()));
        tokio::spawn(async move {
            let _held = place;
            // Whoever hangs up, or says what is no HTTP, is of no concern.
            let _ = connection.await;
        });
    }
    open.shutdown().await;
}

async fn take(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // It is only slower without.
    let _ = stream.set_nodelay(true);
    Ok((stream, place))
}
