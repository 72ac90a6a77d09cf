//! What happens to every request before its route is asked: it is traced, admitted, received and bounded.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Method, Request, StatusCode, header::ALLOW, request::Parts},
    response::{IntoResponse as _, Response},
};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use opentelemetry::trace::SpanKind;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;
use tracing::{Instrument as _, Span, field::Empty};

use super::{HttpLimits, HttpState, problem::Problem};
use crate::{
    caller::{Admission, Caller, endpoint_name},
    deadline::within,
    gateway,
    listener::Connection,
    oauth,
    telemetry::{ENTRY, HttpHeaders, enter},
};

/// Maximum size of a request body, in bytes: ten times what the largest well-formed event needs.
const MAX_BODY: usize = 64 * 1024;
/// Stands for every method that no route has. The name is from OpenTelemetry's conventions.
const OTHER: &str = "_OTHER";
/// For gateways, which may put the client's path behind it.
const VERIFY: &str = "/verify";
const INTROSPECT: &str = "/oauth2/introspect";

/// Answers requests.
#[derive(Debug)]
pub(super) struct Front {
    router: Router,
    state: Arc<HttpState>,
    permits: Semaphore,
    timeout: Duration,
}

impl Front {
    /// The routes that it answers without the router.
    #[cfg(test)]
    pub(super) const ROUTES: [&str; 3] = [VERIFY, "/verify/*", INTROSPECT];

    pub(super) fn new(router: Router, state: Arc<HttpState>, limits: HttpLimits) -> Self {
        let permits = Semaphore::new(limits.concurrent_requests);
        Self { router, state, permits, timeout: limits.request_timeout }
    }

    /// Answers a request, and traces it by OpenTelemetry's conventions for HTTP. A path without a route has no span, since
    /// callers could invent any number of names.
    pub(super) async fn answer(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> Result<Response, Infallible> {
        let Some(route) = endpoint_name(request.uri().path()) else {
            return Ok(self.admit(&connection, request).await);
        };
        let method = if request.method() == Method::POST { "POST" } else { OTHER };
        let span = enter(&HttpHeaders(request.headers()), SpanKind::Server, || span(method, route));
        let response = self.admit(&connection, request).instrument(span.clone()).await;
        span.record("http.response.status_code", response.status().as_u16());
        if response.status().is_server_error() {
            span.record("otel.status_code", "ERROR");
        }
        Ok(response)
    }

    async fn admit(&self, connection: &Connection, request: Request<Incoming>) -> Response {
        let peer = Some(&connection.peer);
        let admitted = match self.state.callers.admit(request.uri().path(), request.headers(), peer) {
            Admission::Now(admitted) => admitted,
            Admission::Later(admission) => admission.await,
        };
        match admitted {
            Ok(caller) => {
                within(self.timeout, pin!(self.receive(caller, request))).await.unwrap_or_else(|_| {
                    Problem::unavailable("the request took longer than allowed").into_response()
                })
            }
            Err(refusal) => Problem::refused(&refusal).into_response(),
        }
    }

    /// Receives the body, and then takes a permit, so that a sender that is slow holds none.
    async fn receive(&self, caller: Caller, request: Request<Incoming>) -> Response {
        let (head, body) = request.into_parts();
        let body = if is_verify(&head) {
            // A gateway may send the body of its client.
            Bytes::new()
        } else {
            match Limited::new(body, MAX_BODY).collect().await {
                Ok(body) => body.to_bytes(),
                Err(_) => return Problem::too_large(MAX_BODY).into_response(),
            }
        };
        let Ok(_permit) = self.permits.try_acquire() else {
            return Problem::unavailable("the service is overloaded").into_response();
        };
        self.dispatch(caller, head, body).await
    }

    /// Answers what gateways ask for each of their requests without asking the router, which costs more than a validation
    /// from the cache.
    async fn dispatch(&self, caller: Caller, mut head: Parts, body: Bytes) -> Response {
        if is_verify(&head) {
            return gateway::verify(&self.state.gateway, &caller, &head).await;
        }
        if head.uri.path() == INTROSPECT {
            if head.method != Method::POST {
                return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST")]).into_response();
            }
            return oauth::introspect(&self.state.oauth, &caller, &head.headers, &body).await;
        }
        head.extensions.insert(caller);
        let request = Request::from_parts(head, Body::from(body));
        let Ok(response) = self.router.clone().oneshot(request).await;
        response
    }
}

fn is_verify(head: &Parts) -> bool {
    head.uri.path().strip_prefix(VERIFY).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn span(method: &str, route: &str) -> Span {
    tracing::info_span!(
        target: ENTRY,
        "http",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.path = route,
        url.scheme = "http",
    )
}
