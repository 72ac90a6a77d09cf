//! Accepts a bounded number of connections, each with a bounded time for the head of a request.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

/// Maximum number of open connections. Further ones wait to be accepted.
const CONNECTIONS: usize = 1_024;
/// How long the head of a request may take to arrive, including the time that the connection is idle before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after `accept` failed, for instance because the process has no free file descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled and the requests in flight have ended.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let (permits, open) = (Arc::new(Semaphore::new(CONNECTIONS)), GracefulShutdown::new());
    let service = TowerToHyperService::new(router);
    while let Some(accepted) = stop.run_until_cancelled(accept(&listener, &permits)).await {
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service.clone()));
        tokio::spawn(async move {
            let _permit = permit;
            // Client disconnects and malformed requests are not our errors.
            let _ = connection.await;
        });
    }
    open.shutdown().await;
}

/// Accepts a connection when there is a permit for it.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Without it the connection is slower, but works.
    let _ = stream.set_nodelay(true);
    Ok((stream, permit))
}
