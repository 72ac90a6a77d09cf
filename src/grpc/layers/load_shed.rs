//! Answers a call with RESOURCE_EXHAUSTED at once when the maximum number of calls is in flight. A call is in flight until
//! its answer is sent.

use std::{future::ready, sync::Arc};

use futures_util::{FutureExt as _, future::Either};
use tonic::codegen::http::Request;

use super::{
    held_body::HeldBody,
    middleware::{Answer, Middleware},
};
use crate::{grpc::status, listener::Connection};

/// Bounds the number of calls in flight. Validations are counted apart from the others: revocations that wait for a replica
/// must not keep validations out.
#[derive(Debug)]
pub(in crate::grpc) struct LoadShed {
    limit: usize,
    /// Each call in flight holds a clone, which is counted. A semaphore would lock a mutex for each call.
    validations: Arc<()>,
    others: Arc<()>,
}

const VALIDATION: &str = "/ValidateToken";

impl LoadShed {
    pub(in crate::grpc) fn new(limit: usize) -> Self {
        Self { limit, validations: Arc::default(), others: Arc::default() }
    }
}

impl Middleware for LoadShed {
    fn call<B, N, F>(&self, mut request: Request<B>, next: N) -> impl Future<Output = Answer> + Send + 'static
    where
        N: FnOnce(Request<B>) -> F,
        F: Future<Output = Answer> + Send + 'static,
    {
        let connection = request.extensions_mut().remove::<Arc<Connection>>();
        let is_validation = request.uri().path().ends_with(VALIDATION);
        let permit = Arc::clone(if is_validation { &self.validations } else { &self.others });
        // Counts the clone in `self` too, so this is the number of calls in flight without this one. Cloned first: of
        // calls that arrive at once, each counts those before it.
        if Arc::strong_count(&permit) - 2 >= self.limit {
            return Either::Right(ready(Ok(status::overloaded().into_http())));
        }
        Either::Left(next(request).map(move |answer| {
            answer.map(|mut response| {
                let unsent = connection.map(Connection::begin);
                let bytes = response.extensions_mut().remove();
                response.map(|body| HeldBody::hold(body, permit, unsent, bytes))
            })
        }))
    }
}
