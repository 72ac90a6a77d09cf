//! `latchkey serve`: runs the service until a signal.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use super::{AnyError, signals::StopSignals};
use crate::{clock::Clock, config::Config, page, server::Server, telemetry::Telemetry};

/// How long leaving may take when a second signal has asked for a stop at once.
const LEAVING: Duration = Duration::from_millis(500);

/// Serves until a signal. A second signal ends the process at once.
pub(super) async fn serve(config: Config) -> Result<ExitCode, AnyError> {
    let telemetry = Telemetry::init(&config.database.log, config.database.log_format, true)?;
    let mut signals = StopSignals::listen()?;
    let prepared = tokio::select! {
        prepared = Server::prepare(&config, Clock::system()) => prepared?,
        signal = signals.next() => {
            tracing::info!("{signal} received: stopped before it served");
            return Ok(ExitCode::SUCCESS);
        }
    };
    // Never dropped: other replicas would wait for this one. A signal that comes meanwhile is handled afterwards.
    let server = prepared.run().await;
    greet(server.grpc_addr(), server.http_addr(), server.admin_addr(), server.has_page());
    let (stop, registry) = (server.stopper(), Arc::clone(server.registry()));
    let mut ended = pin!(async {
        let ended = server.ended().await;
        telemetry.shut_down().await;
        ended
    });
    tokio::select! {
        ended = &mut ended => ended?,
        signal = signals.next() => {
            tracing::info!("{signal} received: finishing calls in flight; a second signal stops at once");
            stop.cancel();
            tokio::select! {
                ended = &mut ended => ended?,
                signal = signals.next() => {
                    tracing::warn!("{signal} received: stopped at once, calls in flight were cut off");
                    registry.close();
                    // Other replicas wait for this one if it does not succeed.
                    let _ = tokio::time::timeout(LEAVING, registry.deregister()).await;
                    return Ok(ExitCode::from(signal.exit_status()));
                }
            }
        }
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Prints the listeners' addresses and a command to try.
fn greet(grpc: SocketAddr, http: SocketAddr, admin: SocketAddr, has_page: bool) {
    tracing::info!(%grpc, %http, %admin, "listening");
    let page = if has_page { format!("open: http://{http}{}\n", page::PATH) } else { String::new() };
    let text = format!(
        "latchkey listens for gRPC on {grpc} and for HTTP on {http} with metrics and health on {admin}\ntry: grpcurl -plaintext -d '{{\"user_id\":\"alice\",\"name\":\"first token\"}}' \
         {grpc} latchkey.v1.TokenService/CreateToken\n{page}",
    );
    // On a separate thread, because the write blocks while nobody reads standard output.
    thread::spawn(move || {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    });
}
