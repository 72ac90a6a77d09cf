//! Admits calls, or refuses them.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use tonic::{
    body::Body,
    codegen::http::{Request, Response},
};
use tower::{Layer, Service};

use super::middleware::Answer;
use crate::{
    caller::{Admission, Callers, Refusal},
    grpc::status,
    listener::Connection,
};

/// Puts the [`Caller`](crate::caller::Caller) of each call into its extensions, or refuses the call.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct Admit {
    /// Who may call.
    pub(in crate::grpc) callers: Arc<Callers>,
}

impl<S> Layer<S> for Admit {
    type Service = Admitting<S>;

    fn layer(&self, inner: S) -> Admitting<S> {
        Admitting { callers: Arc::clone(&self.callers), inner }
    }
}

/// A service behind [`Admit`].
#[derive(Clone, Debug)]
pub(in crate::grpc) struct Admitting<S> {
    callers: Arc<Callers>,
    inner: S,
}

type Boxed = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl<S, B> Service<Request<B>> for Admitting<S>
where
    B: Send + 'static,
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Either<Ready<Answer>, Boxed>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Arc<Connection>>().map(|connection| &connection.peer);
        match self.callers.admit(request.uri().path(), request.headers(), peer) {
            Admission::Now(Ok(caller)) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Admission::Now(Err(refusal)) => Either::Right(Either::Left(ready(refuse(&refusal)))),
            Admission::Later(admission) => {
                let mut inner = self.inner.clone();
                Either::Right(Either::Right(Box::pin(async move {
                    match admission.await {
                        Ok(caller) => {
                            request.extensions_mut().insert(caller);
                            std::future::poll_fn(|cx| inner.poll_ready(cx)).await?;
                            inner.call(request).await
                        }
                        Err(refusal) => refuse(&refusal),
                    }
                })))
            }
        }
    }
}

fn refuse(refusal: &Refusal) -> Answer {
    Ok(status::refused(refusal).into_http())
}
