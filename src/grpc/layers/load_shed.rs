//! Answers a call with RESOURCE_EXHAUSTED at once when the maximum number of calls is in flight.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::codegen::http::Request;

use super::middleware::{Answer, Middleware};
use crate::grpc::status;

/// Bounds the number of calls in flight. Clones share the bound.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct LoadShed {
    permits: Arc<Semaphore>,
}

impl LoadShed {
    pub(in crate::grpc) fn new(calls: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(calls)) }
    }
}

impl Middleware for LoadShed {
    fn call<B, N, F>(&self, request: Request<B>, next: N) -> impl Future<Output = Answer> + Send + 'static
    where
        N: FnOnce(Request<B>) -> F,
        F: Future<Output = Answer> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let admitted = permit.map(|permit| (permit, next(request)));
        async move {
            match admitted {
                Ok((_permit, answer)) => answer.await,
                Err(_) => Ok(status::overloaded().into_http()),
            }
        }
    }
}
