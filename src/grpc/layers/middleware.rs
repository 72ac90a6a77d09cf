//! What the tower layers of this module have in common. Each of them is a type that implements [`Middleware`].

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::http::{Request, Response},
};
use tower::{Layer, Service};

/// The outcome of a gRPC call. Errors are responses too.
pub(super) type Answer = Result<Response<Body>, Infallible>;

/// The one duty of a layer.
pub(in crate::grpc) trait Middleware {
    /// Answers `request`, usually with what `next` answers.
    fn call<B, N, F>(&self, request: Request<B>, next: N) -> impl Future<Output = Answer> + Send + 'static
    where
        N: FnOnce(Request<B>) -> F,
        F: Future<Output = Answer> + Send + 'static;
}

/// Wraps services in a [`Middleware`].
#[derive(Clone, Debug)]
pub(in crate::grpc) struct MiddlewareLayer<M>(pub(in crate::grpc) M);

impl<M: Clone, S> Layer<S> for MiddlewareLayer<M> {
    type Service = Wrapped<M, S>;

    fn layer(&self, inner: S) -> Wrapped<M, S> {
        Wrapped { middleware: self.0.clone(), inner }
    }
}

/// A service in its [`Middleware`].
#[derive(Clone, Debug)]
pub(in crate::grpc) struct Wrapped<M, S> {
    middleware: M,
    inner: S,
}

impl<M, S, B> Service<Request<B>> for Wrapped<M, S>
where
    M: Middleware,
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.middleware.call(request, |request| self.inner.call(request)))
    }
}
