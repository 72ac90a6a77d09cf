//! The services, as one connection calls them.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::{body::Incoming, service::Service as HyperService};
use tonic::codegen::http::Request;
use tower::Service;

use crate::listener::Connection;

/// Calls a service for one connection. A connection makes its calls one after the other, so the lock never waits; cloning the
/// service for each call, as tower's own adapter does, would count a clone of each part that all connections share.
pub(super) struct ConnectionService<S> {
    service: Mutex<S>,
    connection: Arc<Connection>,
}

impl<S> ConnectionService<S> {
    /// Calls `service`, whose layers are always ready.
    pub(super) fn new(service: S, connection: Arc<Connection>) -> Self {
        Self { service: Mutex::new(service), connection }
    }
}

impl<S: Service<Request<Incoming>>> HyperService<Request<Incoming>> for ConnectionService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> S::Future {
        request.extensions_mut().insert(Arc::clone(&self.connection));
        // A call only begins here and panics in its own task, so poisoning is ignored.
        self.service.lock().unwrap_or_else(PoisonError::into_inner).call(request)
    }
}
