//! What the tower layers of this module have in common. Each of them is a type that implements [`Middleware`].

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::http::{Request, Response},
};
use tower::{Layer, Service};

/// The outcome of a gRPC call. Errors are responses too.
pub(in crate::grpc) type Answer = Result<Response<Body>, Infallible>;

/// The one duty of a layer.
pub(in crate::grpc) trait Middleware {
    /// Answers `request`, usually with what `next` answers.
    fn call<B, N, F>(&self, request: Request<B>, next: N) -> impl Future<Output = Answer> + Send + 'static
    where
        N: FnOnce(Request<B>) -> F,
        F: Future<Output = Answer> + Send + 'static;
}

/// Runs the second inside the first. The futures of a chain share one allocation.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct Chain<M, N>(pub(in crate::grpc) M, pub(in crate::grpc) N);

impl<M: Middleware, N: Middleware> Middleware for Chain<M, N> {
    fn call<B, Next, F>(
        &self,
        request: Request<B>,
        next: Next,
    ) -> impl Future<Output = Answer> + Send + 'static
    where
        Next: FnOnce(Request<B>) -> F,
        F: Future<Output = Answer> + Send + 'static,
    {
        self.0.call(request, |request| self.1.call(request, next))
    }
}

/// Wraps services in a [`Middleware`].
#[derive(Debug)]
pub(in crate::grpc) struct MiddlewareLayer<M>(Arc<M>);

impl<M> MiddlewareLayer<M> {
    pub(in crate::grpc) fn new(middleware: M) -> Self {
        Self(Arc::new(middleware))
    }
}

impl<M, S> Layer<S> for MiddlewareLayer<M> {
    type Service = Wrapped<M, S>;

    fn layer(&self, inner: S) -> Wrapped<M, S> {
        Wrapped { middleware: Arc::clone(&self.0), inner }
    }
}

/// A service in its [`Middleware`], which is shared because the service is cloned for each call.
#[derive(Debug)]
pub(in crate::grpc) struct Wrapped<M, S> {
    middleware: Arc<M>,
    inner: S,
}

impl<M, S: Clone> Clone for Wrapped<M, S> {
    fn clone(&self) -> Self {
        Self { middleware: Arc::clone(&self.middleware), inner: self.inner.clone() }
    }
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
