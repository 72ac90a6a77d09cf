//! A layer that measures each call and, if it is traced, makes its span, by OpenTelemetry's conventions for gRPC.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use opentelemetry::trace::SpanKind;
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{Request, Response},
};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field::Empty};

use crate::grpc::status;
use crate::telemetry::{ENTRY, HttpHeaders, RpcDurations, enter};

/// The methods, as metrics name them, and as paths and traces do.
const METHODS: [(&str, &str); 4] = [
    ("CreateToken", "/latchkey.v1.TokenService/CreateToken"),
    ("ListTokens", "/latchkey.v1.TokenService/ListTokens"),
    ("DeleteToken", "/latchkey.v1.TokenService/DeleteToken"),
    ("ValidateToken", "/latchkey.v1.TokenService/ValidateToken"),
];

/// What stands for a method that does not exist: OpenTelemetry's word, since a caller could make up any number of them.
const OTHER: (&str, &str) = ("_OTHER", "/_OTHER");

/// The names of the methods in metrics.
pub(in crate::grpc) fn method_names() -> [&'static str; 4] {
    METHODS.map(|(name, _)| name)
}

#[derive(Clone, Debug)]
pub(in crate::grpc) struct ObserveLayer {
    pub(in crate::grpc) durations: RpcDurations,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, durations: self.durations.clone() }
    }
}

#[derive(Clone, Debug)]
pub(in crate::grpc) struct Observe<S> {
    inner: S,
    durations: RpcDurations,
}

impl<S, B> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let (method, path) = METHODS.into_iter().find(|(_, known)| *known == path).unwrap_or(OTHER);
        let span = enter(&HttpHeaders(request.headers()), SpanKind::Server, || span(&path[1..]));
        let mut call = Call {
            durations: self.durations.clone(),
            method,
            began: Instant::now(),
            code: Code::Cancelled,
            span: span.clone(),
        };
        let answer = self.inner.call(request).instrument(span);
        Box::pin(async move {
            let answer = answer.await;
            if let Ok(response) = &answer {
                call.answered(response);
            }
            answer
        })
    }
}

fn span(method: &str) -> Span {
    tracing::info_span!(
        target: ENTRY,
        "rpc",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        error.type = Empty,
    )
}

/// A call under way; noted when it ends, also when its caller hangs up.
struct Call {
    durations: RpcDurations,
    method: &'static str,
    began: Instant,
    code: Code,
    span: Span,
}

impl Call {
    /// A call that went well says so after its body, the others in their headers.
    fn answered(&mut self, response: &Response<Body>) {
        self.code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
        if self.code == Code::Internal {
            self.span.in_scope(|| log_failure(self.method, response));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = name(self.code);
        self.durations.observe(self.method, code, self.began.elapsed());
        self.span.record("rpc.response.status_code", code);
        if is_failure_of_the_service(self.code) {
            self.span.record("error.type", code).record("otel.status_code", "ERROR");
        }
    }
}

/// Logs why a call ended with INTERNAL. This is the only line about it, whoever made the answer.
fn log_failure(method: &str, response: &Response<Body>) {
    let made = response.extensions().get::<Status>();
    match made.and_then(status::failure) {
        Some(error) => tracing::error!(method, %error, "a call failed"),
        None => tracing::error!(method, error = made.map_or("unknown", Status::message), "a call failed"),
    }
}

/// The codes that a server's span shows as an error; the others are the caller's.
fn is_failure_of_the_service(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use tower::ServiceExt as _;

    use super::*;
    use crate::registry::RegistryError;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log of one call that is answered with `status`.
    async fn log_of(status: Status) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _log = tracing::subscriber::set_default(subscriber);
        let answer = move |_: Request<()>| std::future::ready(Ok(status.clone().into_http()));
        let durations = RpcDurations::new(&method_names()).unwrap();
        let service = ObserveLayer { durations }.layer(tower::service_fn(answer));
        let request = Request::get(METHODS[0].1).body(()).unwrap();
        let _: Response<Body> = service.oneshot(request).await.unwrap();
        let log = log.0.lock().unwrap().clone();
        String::from_utf8(log).unwrap()
    }

    #[tokio::test]
    async fn each_internal_answer_is_logged_once_whoever_made_it() {
        for (status, error) in [
            (Status::from(RegistryError::Randomness), "the operating system gave no randomness"),
            (Status::internal("made by tonic"), "made by tonic"),
        ] {
            let log = log_of(status).await;
            assert_eq!(log.lines().count(), 1, "{log}");
            assert!(log.contains("ERROR") && log.contains("CreateToken") && log.contains(error), "{log}");
        }
        assert_eq!(log_of(Status::invalid_argument("name is too short")).await, "");
    }
}
