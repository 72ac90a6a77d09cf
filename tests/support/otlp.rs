//! A collector of spans: an OTLP receiver over gRPC.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use tokio::task::JoinHandle;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use super::until;

/// The id of a caller's trace, and of the caller's span.
pub const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
pub const PARENT: u64 = 0x00f0_67aa_0ba9_02b7;

/// The `traceparent` header of the caller's span in this trace.
pub fn traceparent(trace: u128, sampled: bool) -> String {
    format!("00-{trace:032x}-{PARENT:016x}-{:02x}", u8::from(sampled))
}

/// The variable with which spans are sent after 50 milliseconds.
pub const SENT_SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "50");

/// A collector, which stops when it is dropped.
pub struct Collector {
    url: String,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    serving: JoinHandle<()>,
}

struct Receiver(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts a collector on a free port.
    pub async fn start() -> Self {
        Self::serve(Server::builder(), "http://127.0.0.1")
    }

    /// Starts a collector that speaks TLS as localhost.
    pub async fn start_with(identity: Identity) -> Self {
        let tls = ServerTlsConfig::new().identity(identity);
        Self::serve(Server::builder().tls_config(tls).unwrap(), "https://localhost")
    }

    fn serve(mut server: Server, host: &str) -> Self {
        let received = Arc::<Mutex<Vec<_>>>::default();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = incoming.local_addr().unwrap().port();
        let service = TraceServiceServer::new(Receiver(Arc::clone(&received)));
        let serving = tokio::spawn(async move {
            server.add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Self { url: format!("{host}:{port}"), received, serving }
    }

    /// The environment variables with which a service sends its spans here, soon.
    pub fn variables(&self) -> [(&'static str, &str); 2] {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url), SENT_SOON]
    }

    /// The requests received so far.
    pub fn received(&self) -> Vec<ExportTraceServiceRequest> {
        self.received.lock().unwrap().clone()
    }

    /// The spans received so far, in no order.
    pub fn spans(&self) -> Vec<Span> {
        let received = self.received();
        let scopes = received.into_iter().flat_map(|it| it.resource_spans).flat_map(|it| it.scope_spans);
        scopes.flat_map(|it| it.spans).collect()
    }

    /// Waits for the span of this name in the trace.
    pub async fn span(&self, trace: u128, name: &str) -> Span {
        until(name, || async {
            self.spans().into_iter().find(|span| span.name == name && span.trace_id == trace.to_be_bytes())
        })
        .await
    }

    /// The names of the child spans of `parent`, in the order in which they began.
    pub fn below(&self, parent: &Span) -> Vec<String> {
        let mut spans = self.spans();
        spans.retain(|span| span.parent_span_id == parent.span_id);
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans.into_iter().map(|span| span.name).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The attribute of this name as text.
pub fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == name)?;
    match attribute.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}
