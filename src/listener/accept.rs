//! Accepts connections, and ends them in order when the service stops.

use std::{error::Error, future::poll_fn, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper_util::{
    rt::TokioIo,
    server::graceful::{GracefulConnection, GracefulShutdown, Watcher},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{
    Connections, Peer, PeerName, Stream, Tls,
    connection::{Connection, Writes},
    preface::Replayed,
};

/// A listener, and what its connections have in common.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) connections: Arc<Connections>,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Whether connections begin with the preface of HTTP/2.
    pub(crate) http2: bool,
}

/// How long a TLS handshake, and after it the preface of HTTP/2, may take.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is ended when its peer takes nothing of an answer for this time, or at most twice as long.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait after `accept` failed, for instance because the process has no free file descriptor: longer each time.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// Serves each connection with what `serve` makes of it. Returns when `stop` is cancelled and the requests in flight have
/// ended.
pub(crate) async fn serve<C>(
    tcp: TcpListener,
    listener: Listener,
    serve: impl Fn(TokioIo<Replayed>, Arc<Connection>) -> C + Clone + Send + 'static,
    stop: CancellationToken,
) where
    C: GracefulConnection<Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let open = GracefulShutdown::new();
    let [mut pause, longest] = PAUSES;
    while let Some(Some(permit)) = stop.run_until_cancelled(listener.connections.permit()).await {
        let Some(accepted) = stop.run_until_cancelled(tcp.accept()).await else { break };
        let (stream, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                drop(permit);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
                continue;
            }
        };
        [pause, _] = PAUSES;
        let Some(counted) = listener.connections.count(addr.ip(), permit) else { continue };
        let (listener, serve, watcher, stop) =
            (listener.clone(), serve.clone(), open.watcher(), stop.clone());
        tokio::spawn(async move {
            // Client disconnects and malformed requests are not our errors.
            if let Some(Ok(Ok((stream, connection)))) = stop
                .run_until_cancelled(tokio::time::timeout(BEGIN_TIMEOUT, listener.begin(stream, addr)))
                .await
            {
                run(watcher, serve(TokioIo::new(stream), Arc::clone(&connection)), &connection).await;
            }
            drop(counted);
        });
    }
    // New connections are refused from now on.
    drop(tcp);
    open.shutdown().await;
}

impl Listener {
    /// Encrypts a connection, and reads how it begins.
    async fn begin(self, stream: TcpStream, addr: SocketAddr) -> io::Result<(Replayed, Arc<Connection>)> {
        // Without it the connection is slower, but works.
        let _ = stream.set_nodelay(true);
        let writes = Arc::<Writes>::default();
        let (stream, names) = match &self.tls {
            None => (Stream::plain(stream, Arc::clone(&writes)), Arc::default()),
            Some(tls) => {
                let stream = tls.acceptor().accept(stream).await?;
                let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let names = certificate.map_or_else(Arc::default, |certificate| PeerName::of(certificate));
                (Stream::tls(stream, Arc::clone(&writes)), names)
            }
        };
        let stream = if self.http2 { Replayed::http2(stream).await? } else { Replayed::nothing(stream) };
        let peer = Peer { addr, encrypted: self.tls.is_some(), names };
        Ok((stream, Arc::new(Connection::new(peer, writes))))
    }
}

/// Runs a connection until it ends, or its peer no longer takes what is sent to it.
async fn run<C: GracefulConnection>(watcher: Watcher, serving: C, connection: &Connection) {
    let mut serving = pin!(watcher.watch(serving));
    let stalled = async {
        let mut ticks = tokio::time::interval(STALL_TIMEOUT);
        let mut done = 0;
        loop {
            ticks.tick().await;
            if connection.ends_a_tick(&mut done) {
                return;
            }
        }
    };
    let relay = Arc::default();
    let serving = poll_fn(|cx| connection.calls.poll_with(&relay, cx, |cx| serving.as_mut().poll(cx)));
    tokio::select! {
        biased;
        _ = serving => {}
        () = stalled => tracing::debug!(peer = %connection.peer.addr, "a connection was closed: its peer takes no answers"),
    }
}
