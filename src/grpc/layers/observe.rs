//! Measures each call and, if it is traced, creates its span, by OpenTelemetry's conventions for gRPC.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use opentelemetry::trace::SpanKind;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{Request, Response},
};
use tracing::{Instrument as _, Span, field::Empty};

use super::middleware::{Answer, Middleware};
use crate::{
    grpc::status,
    proto::DESCRIPTORS,
    telemetry::{ENTRY, HttpHeaders, RpcDurations, enter},
};

/// An RPC that is counted.
#[derive(Clone, Copy, Debug)]
struct Method {
    /// The name in metrics: `CreateToken`.
    name: &'static str,
    /// The path of its requests: `/latchkey.v1.TokenService/CreateToken`. Traces use it without the first slash.
    path: &'static str,
}

impl Method {
    /// Stands for every method that does not exist, since callers could invent any number of them. The name is from
    /// OpenTelemetry's conventions.
    const OTHER: Self = Self { name: "_OTHER", path: "/_OTHER" };

    /// Leaks the name, so call it once for each method.
    fn new(package: &str, service: &str, name: &str) -> Self {
        let path: &'static str = format!("/{package}.{service}/{name}").leak();
        Self { name: &path[path.len() - name.len()..], path }
    }

    fn of(path: &str) -> Self {
        METHODS.iter().find(|method| method.path == path).copied().unwrap_or(Self::OTHER)
    }
}

/// Every method of these packages, in the order of the proto files.
static METHODS: LazyLock<Vec<Method>> = LazyLock::new(|| {
    #[expect(
        clippy::expect_used,
        reason = "build.rs encoded the descriptors; `durations` decodes them at start"
    )]
    let descriptors = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors that build.rs encoded");
    let files = descriptors.file.iter().filter(|file| PACKAGES.contains(&file.package()));
    let services = files.flat_map(|file| file.service.iter().map(|service| (file.package(), service)));
    services
        .flat_map(|(package, service)| {
            service.method.iter().map(|method| Method::new(package, service.name(), method.name()))
        })
        .collect()
});

/// The packages of the services that are counted.
const PACKAGES: [&str; 2] = ["latchkey.v1", "envoy.service.auth.v3"];

/// Returns the names of the methods in metrics.
pub(in crate::grpc) fn method_names() -> Vec<&'static str> {
    METHODS.iter().map(|method| method.name).collect()
}

/// Returns whether a path is that of a method that is counted.
pub(super) fn is_counted(path: &str) -> bool {
    METHODS.iter().any(|method| method.path == path)
}

/// Records a call that did not reach [`Observe`].
pub(super) fn record(durations: &RpcDurations, path: &str, code: Code, duration: Duration) {
    durations.observe(Method::of(path).name, name(code), duration);
}

/// Records the duration and the status code of each call, and its span.
#[derive(Clone, Debug)]
pub(in crate::grpc) struct Observe {
    pub(in crate::grpc) durations: RpcDurations,
}

impl Middleware for Observe {
    fn call<B, N, F>(&self, request: Request<B>, next: N) -> impl Future<Output = Answer> + Send + 'static
    where
        N: FnOnce(Request<B>) -> F,
        F: Future<Output = Answer> + Send + 'static,
    {
        let Method { name, path } = Method::of(request.uri().path());
        let span = enter(&HttpHeaders(request.headers()), SpanKind::Server, || span(&path[1..]));
        let mut call = Call {
            durations: self.durations.clone(),
            method: name,
            began: Instant::now(),
            code: Code::Cancelled,
            span: span.clone(),
        };
        next(request).instrument(span).map(move |answer| {
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

/// A call in flight. It is recorded when it is dropped, so that calls whose caller disconnects are recorded too.
struct Call {
    durations: RpcDurations,
    method: &'static str,
    began: Instant,
    code: Code,
    span: Span,
}

impl Call {
    /// Takes the status code from the headers. A successful call has none there: its code follows the body.
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
        if is_server_error(self.code) {
            self.span.record("error.type", code).record("otel.status_code", "ERROR");
        }
    }
}

/// Logs why a call ended with INTERNAL, which the caller does not learn. The error may come from a handler or from
/// tonic.
fn log_failure(method: &str, response: &Response<Body>) {
    let status = response.extensions().get::<Status>();
    match status.and_then(status::failure) {
        Some(error) => tracing::error!(method, %error, "a call failed"),
        None => tracing::error!(method, error = status.map_or("unknown", Status::message), "a call failed"),
    }
}

/// Returns whether a server's span shows the code as an error. The other codes are errors of the caller.
fn is_server_error(code: Code) -> bool {
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

    use tower::{Layer as _, ServiceExt as _};

    use super::{super::middleware::MiddlewareLayer, *};
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

    /// Returns the log of one call that is answered with `status`.
    async fn log_of(status: Status) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _log = tracing::subscriber::set_default(subscriber);
        let answer = move |_: Request<()>| std::future::ready(Ok(status.clone().into_http()));
        let durations = RpcDurations::new(&method_names()).unwrap();
        let service = MiddlewareLayer::new(Observe { durations }).layer(tower::service_fn(answer));
        let request = Request::get(METHODS[0].path).body(()).unwrap();
        let _: Response<Body> = service.oneshot(request).await.unwrap();
        let log = log.0.lock().unwrap().clone();
        String::from_utf8(log).unwrap()
    }

    #[test]
    fn every_method_of_the_packages_is_counted() {
        let descriptors = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let files = descriptors.file.iter().filter(|file| PACKAGES.contains(&file.package()));
        let methods = files.flat_map(|file| &file.service).flat_map(|service| &service.method);
        let declared: Vec<&str> = methods.map(|method| method.name()).collect();
        assert_eq!(method_names(), declared);
        let expected = ["CreateToken", "ListTokens", "DeleteToken", "ValidateToken", "ListEvents", "Check"];
        assert_eq!(method_names(), expected);
        for method in METHODS.iter() {
            assert_eq!(Method::of(method.path).name, method.name);
        }
        assert_eq!(Method::of("/latchkey.v1.AuditService/ListEvents").name, "ListEvents");
        assert_eq!(Method::of("/latchkey.v1.TokenService/Missing").name, "_OTHER");
    }

    #[tokio::test]
    async fn each_internal_answer_of_a_handler_or_of_tonic_is_logged_once() {
        for (status, error) in [
            (Status::from(RegistryError::Randomness), "the operating system gave no randomness"),
            (Status::internal("error of tonic"), "error of tonic"),
        ] {
            let log = log_of(status).await;
            assert_eq!(log.lines().count(), 1, "{log}");
            assert!(log.contains("ERROR") && log.contains("CreateToken") && log.contains(error), "{log}");
        }
        assert_eq!(log_of(Status::invalid_argument("name is too short")).await, "");
    }
}
