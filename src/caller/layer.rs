//! The tower layer that admits requests, for gRPC and HTTP alike.

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::http::{Request, Response};
use futures_util::future::Either;
use tower::{Layer, Service};

use super::{Admission, Callers, Refusal};
use crate::listener::Connection;

/// Puts the [`Caller`](super::Caller) of each request into its extensions, or refuses the request.
#[derive(Debug)]
pub struct AdmitLayer<B> {
    /// Who may call.
    pub callers: Arc<Callers>,
    /// Answers a request that is refused, in the words of its protocol.
    pub refuse: fn(&Refusal) -> Response<B>,
}

impl<B> Clone for AdmitLayer<B> {
    fn clone(&self) -> Self {
        Self { callers: Arc::clone(&self.callers), refuse: self.refuse }
    }
}

impl<S, B> Layer<S> for AdmitLayer<B> {
    type Service = Admit<S, B>;

    fn layer(&self, inner: S) -> Admit<S, B> {
        Admit { layer: self.clone(), inner }
    }
}

/// A service behind an [`AdmitLayer`].
#[derive(Debug)]
pub struct Admit<S, B> {
    layer: AdmitLayer<B>,
    inner: S,
}

impl<S: Clone, B> Clone for Admit<S, B> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), inner: self.inner.clone() }
    }
}

type Boxed<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

impl<S, A, B> Service<Request<A>> for Admit<S, B>
where
    A: Send + 'static,
    B: 'static,
    S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future =
        Either<S::Future, Either<Ready<Result<Response<B>, S::Error>>, Boxed<Response<B>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let AdmitLayer { callers, refuse } = &self.layer;
        let peer = request.extensions().get::<Arc<Connection>>().map(|connection| &connection.peer);
        match callers.admit(request.uri().path(), request.headers(), peer) {
            Admission::Now(Ok(caller)) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Admission::Now(Err(refusal)) => Either::Right(Either::Left(ready(Ok(refuse(&refusal))))),
            Admission::Later(admission) => {
                let (mut inner, refuse) = (self.inner.clone(), *refuse);
                Either::Right(Either::Right(Box::pin(async move {
                    match admission.await {
                        Ok(caller) => {
                            request.extensions_mut().insert(caller);
                            std::future::poll_fn(|cx| inner.poll_ready(cx)).await?;
                            inner.call(request).await
                        }
                        Err(refusal) => Ok(refuse(&refusal)),
                    }
                })))
            }
        }
    }
}
