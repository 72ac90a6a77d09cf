//! A layer that answers a call with RESOURCE_EXHAUSTED at once when as many as allowed are under way.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::Semaphore;
use tonic::{body::Body, codegen::http::Response};
use tower::{Layer, Service};

use crate::grpc::status;

/// Bounds the calls under way in all the services it wraps together.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct LoadShedLayer {
    room: Arc<Semaphore>,
}

impl LoadShedLayer {
    pub(in crate::grpc) fn new(calls: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(calls)) }
    }
}

impl<S> Layer<S> for LoadShedLayer {
    type Service = LoadShed<S>;

    fn layer(&self, inner: S) -> LoadShed<S> {
        LoadShed { inner, room: Arc::clone(&self.room) }
    }
}

#[derive(Clone, Debug)]
pub(in crate::grpc) struct LoadShed<S> {
    inner: S,
    room: Arc<Semaphore>,
}

impl<S, Request> Service<Request> for LoadShed<S>
where
    S: Service<Request, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            return Box::pin(std::future::ready(Ok(status::overloaded().into_http())));
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let _held = permit;
            answer.await
        })
    }
}
