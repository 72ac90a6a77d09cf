//! Hands the calls of the token service to it without asking the router, which finds the other services.
//!
//! The router is axum's. For each call it matches the path, stores its parts, clones the service into a box and boxes
//! the response's body anew: together about as much as all of a validation from the cache.

use std::{
    convert::Infallible,
    task::{Context, Poll, ready},
};

use futures_util::future::Either;
use tonic::{
    body::Body,
    codegen::http::{Request, Response},
    server::NamedService,
};
use tower::{Layer, Service};

/// Puts a service in front of the router.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct Direct<S>(pub(in crate::grpc) S);

impl<S: Clone, R> Layer<R> for Direct<S> {
    type Service = DirectOrRouted<S, R>;

    fn layer(&self, router: R) -> Self::Service {
        DirectOrRouted { direct: self.0.clone(), router }
    }
}

/// A service in front of a router.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct DirectOrRouted<S, R> {
    direct: S,
    router: R,
}

impl<S, R> Service<Request<Body>> for DirectOrRouted<S, R>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
    R: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, R::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(self.direct.poll_ready(cx))?;
        self.router.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(S::NAME));
        if service.is_some_and(|method| method.starts_with('/')) {
            Either::Left(self.direct.call(request))
        } else {
            Either::Right(self.router.call(request))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};

    use tower::ServiceExt as _;

    use super::*;

    /// Answers with a header that names it.
    #[derive(Clone)]
    struct Named(&'static str);

    impl NamedService for Named {
        const NAME: &'static str = "latchkey.v1.TokenService";
    }

    impl Service<Request<Body>> for Named {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            ready(Ok(Response::builder().header("by", self.0).body(Body::empty()).unwrap()))
        }
    }

    #[tokio::test]
    async fn the_router_gets_every_path_but_those_of_the_service() {
        for (path, by) in [
            ("/latchkey.v1.TokenService/ValidateToken", "direct"),
            ("/latchkey.v1.TokenService/Missing", "direct"),
            ("/latchkey.v1.TokenService", "router"),
            ("/latchkey.v1.TokenServices/ValidateToken", "router"),
            ("/grpc.health.v1.Health/Check", "router"),
            ("/", "router"),
        ] {
            let service = Direct(Named("direct")).layer(Named("router"));
            let response = service.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.headers()["by"], by, "{path}");
        }
    }
}
