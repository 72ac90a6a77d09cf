//! The listeners of the service: their addresses, their connections, their encryption.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

use super::StartError;
use crate::{
    config::Config,
    listener::{ConnectionLimits, Connections, Listener, Tls},
};

/// The listeners, open.
pub(super) struct Listeners {
    pub(super) grpc: Bound,
    pub(super) http: Bound,
    pub(super) admin: Bound,
}

/// A listener, open.
pub(super) struct Bound {
    pub(super) tcp: TcpListener,
    pub(super) addr: SocketAddr,
    pub(super) listener: Listener,
}

/// Connections of the admin listener at most. Probes and scrapers are few.
const ADMIN_CONNECTIONS: usize = 64;

impl Listeners {
    /// Reads the certificates, and listens.
    ///
    /// # Errors
    ///
    /// [`StartError::Config`], [`StartError::Tls`], [`StartError::Listen`].
    pub(super) async fn open(config: &Config) -> Result<Self, StartError> {
        let limits = config.tls.connection_limits();
        let admin = ConnectionLimits { total: ADMIN_CONNECTIONS, per_peer: ADMIN_CONNECTIONS };
        let listener = |limits, protocol: Option<&'static str>, http2| {
            let tls = protocol.map(|protocol| open_tls(config, protocol)).transpose()?.flatten();
            Ok::<_, StartError>(Listener { connections: Arc::new(Connections::new(limits)), tls, http2 })
        };
        let grpc = listener(limits, Some("h2"), true)?;
        let http = listener(limits, Some("http/1.1"), false)?;
        let admin = listener(admin, None, false)?;
        Ok(Self {
            grpc: bind("--grpc-addr (LATCHKEY_GRPC_ADDR)", config.grpc_addr, grpc).await?,
            http: bind("--http-addr (LATCHKEY_HTTP_ADDR)", config.http_addr, http).await?,
            admin: bind("--admin-addr (LATCHKEY_ADMIN_ADDR)", config.admin_addr, admin).await?,
        })
    }

    /// Returns the connections of each listener that callers reach.
    pub(super) fn connections(&self) -> [(&'static str, Arc<Connections>); 2] {
        [("grpc", &self.grpc), ("http", &self.http)]
            .map(|(name, bound)| (name, Arc::clone(&bound.listener.connections)))
    }

    /// Returns the certificates of each listener that has some.
    pub(super) fn tls(&self) -> Vec<Arc<Tls>> {
        [&self.grpc, &self.http].into_iter().filter_map(|bound| bound.listener.tls.clone()).collect()
    }
}

fn open_tls(config: &Config, protocol: &'static str) -> Result<Option<Arc<Tls>>, StartError> {
    let Some(files) = config.tls.files()? else { return Ok(None) };
    let tls = Tls::open(files, config.tls.client_auth(), config.tls.tls_min_version, protocol)?;
    Ok(Some(Arc::new(tls)))
}

async fn bind(setting: &'static str, addr: SocketAddr, listener: Listener) -> Result<Bound, StartError> {
    let listening = async {
        let tcp = TcpListener::bind(addr).await?;
        let addr = tcp.local_addr()?;
        Ok(Bound { tcp, addr, listener })
    };
    listening.await.map_err(|error| StartError::Listen { setting, addr, error })
}
