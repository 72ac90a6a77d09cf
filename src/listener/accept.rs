//! Accepts a bounded number of connections, and ends them in order when the service stops.

use std::{error::Error, io, sync::Arc, time::Duration};

use hyper_util::{
    rt::TokioIo,
    server::graceful::{GracefulConnection, GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

/// How long to wait after `accept` failed, for instance because the process has no free file descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves each connection with what `serve` makes of it, at most `connections` at once; further ones wait to be accepted.
/// Returns when `stop` is cancelled and the requests in flight have ended.
pub(crate) async fn serve<C>(
    listener: TcpListener,
    connections: usize,
    serve: impl Fn(TokioIo<TcpStream>) -> C,
    stop: CancellationToken,
) where
    C: GracefulConnection<Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let (permits, open) = (Arc::new(Semaphore::new(connections)), GracefulShutdown::new());
    while let Some(accepted) = stop.run_until_cancelled(accept(&listener, &permits)).await {
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let connection = open.watch(serve(TokioIo::new(stream)));
        tokio::spawn(async move {
            let _permit = permit;
            // Client disconnects and malformed requests are not our errors.
            let _ = connection.await;
        });
    }
    // New connections are refused from now on.
    drop(listener);
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
