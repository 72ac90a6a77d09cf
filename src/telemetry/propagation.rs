//! Where a trace comes into the service and goes on: W3C Trace Context in HTTP headers, gRPC metadata and NATS headers.
//!
//! Whether a call is traced is decided before a span is made for it, so that one which is not costs next to nothing.
//! What happens within it is traced if the call is: such a span is only made where there is a current one.

use std::sync::{LazyLock, OnceLock};

use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{SpanKind, TraceContextExt as _},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{IdGenerator as _, RandomIdGenerator, SamplingDecision, ShouldSample},
};
use tonic::codegen::http::HeaderMap;
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The target of spans that are made by [`enter`] alone.
pub const ENTRY: &str = "latchkey::entry";

/// Decides what is traced; nothing is while there is none.
static SAMPLER: OnceLock<Box<dyn ShouldSample>> = OnceLock::new();
static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// Has `sampler` decide what is traced, from now on and for good; the first one stays.
pub fn set_sampler(sampler: Box<dyn ShouldSample>) {
    let _ = SAMPLER.set(sampler);
}

/// Whether a span comes from [`enter`].
pub fn is_entry(metadata: &Metadata<'_>) -> bool {
    metadata.target() == ENTRY
}

/// The span that `make` makes, as a part of the trace that `carrier` tells of, or of a new one; no span if it is not to
/// be traced.
pub fn enter(carrier: &dyn Extractor, kind: SpanKind, make: impl FnOnce() -> Span) -> Span {
    let Some(sampler) = SAMPLER.get() else { return Span::none() };
    let parent = PROPAGATOR.extract_with_context(&Context::new(), carrier);
    let trace_id = match parent.span().span_context() {
        remote if remote.is_valid() => remote.trace_id(),
        _ => RandomIdGenerator::default().new_trace_id(),
    };
    let sampled = sampler.should_sample(Some(&parent), trace_id, "", &kind, &[], &[]);
    if sampled.decision != SamplingDecision::RecordAndSample {
        return Span::none();
    }
    let span = make();
    // A fault means that nobody takes the span.
    let _ = span.set_parent(parent);
    span
}

/// Writes the current span into `carrier`, if there is one, for whoever goes on with the trace.
pub fn inject(carrier: &mut dyn Injector) {
    let context = Span::current().context();
    if context.span().span_context().is_valid() {
        PROPAGATOR.inject_context(&context, carrier);
    }
}

/// The headers of an HTTP request, which are those of a gRPC call too.
#[derive(Debug)]
pub struct HttpHeaders<'a>(pub &'a HeaderMap);

impl Extractor for HttpHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// The headers of a NATS message, which may have none. Their names are as the sender wrote them.
#[derive(Debug)]
pub struct NatsHeaders<'a>(pub Option<&'a async_nats::HeaderMap>);

impl NatsHeaders<'_> {
    /// The first value of the header of this name, in whatever letters.
    pub fn first(&self, wanted: &str) -> Option<&str> {
        let (_, values) = self.0?.iter().find(|(name, _)| text(name).eq_ignore_ascii_case(wanted))?;
        values.first().map(|value| value.as_str())
    }
}

impl Extractor for NatsHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.first(key)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.into_iter().flat_map(|headers| headers.iter()).map(|(name, _)| text(name)).collect()
    }
}

fn text(name: &async_nats::HeaderName) -> &str {
    name.as_ref()
}
