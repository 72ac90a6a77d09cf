//! Trace context (W3C Trace Context): extracted from HTTP headers, gRPC metadata and NATS headers, and injected into
//! messages.
//!
//! Whether a call is traced is decided before its span is created, so that a call that is not traced costs next to
//! nothing. Spans inside a call are created only if the call has a span.

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

/// The target of the spans that [`enter`] creates, and of no others.
pub const ENTRY: &str = "latchkey::entry";

/// Decides which calls are traced. None are while it is not set.
static SAMPLER: OnceLock<Box<dyn ShouldSample>> = OnceLock::new();
static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// Sets the sampler that decides which calls are traced. Only the first call has an effect.
pub fn set_sampler(sampler: Box<dyn ShouldSample>) {
    let _ = SAMPLER.set(sampler);
}

/// Returns whether [`enter`] created a span.
pub fn is_entry(metadata: &Metadata<'_>) -> bool {
    metadata.target() == ENTRY
}

/// Creates the span of a call with `create`, if the sampler decides to trace the call; otherwise returns no span. The
/// span belongs to the trace that `carrier` names, or to a new one.
pub fn enter(carrier: &dyn Extractor, kind: SpanKind, create: impl FnOnce() -> Span) -> Span {
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
    let span = create();
    // Fails only if the span is disabled; then nothing would export it.
    let _ = span.set_parent(parent);
    span
}

/// Returns the id of the current trace, 32 hexadecimal digits, if the call is traced.
pub fn trace_id() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    Some(span.span_context()).filter(|span| span.is_valid()).map(|span| span.trace_id().to_string())
}

/// Writes the context of the current span, if there is one, into `carrier`.
pub fn inject(carrier: &mut dyn Injector) {
    let context = Span::current().context();
    if context.span().span_context().is_valid() {
        PROPAGATOR.inject_context(&context, carrier);
    }
}

/// The longest `traceparent` or `tracestate` that is read, in bytes. W3C Trace Context asks that 512 be passed on. Every
/// span of the call keeps what is read.
const MAX_CONTEXT: usize = 512;

fn fits(value: &str) -> bool {
    value.len() <= MAX_CONTEXT
}

/// The headers of an HTTP request. The metadata of a gRPC call are such headers too.
#[derive(Debug)]
pub struct HttpHeaders<'a>(pub &'a HeaderMap);

impl Extractor for HttpHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok().filter(|value| fits(value))
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// The headers of a NATS message, if it has any. NATS keeps the case of their names.
#[derive(Debug)]
pub struct NatsHeaders<'a>(pub Option<&'a async_nats::HeaderMap>);

impl NatsHeaders<'_> {
    /// Returns the first value of a header. The case of its name does not matter.
    pub fn first(&self, wanted: &str) -> Option<&str> {
        let (_, values) = self.0?.iter().find(|(name, _)| text(name).eq_ignore_ascii_case(wanted))?;
        values.first().map(|value| value.as_str())
    }
}

impl Extractor for NatsHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.first(key).filter(|value| fits(value))
    }

    fn keys(&self) -> Vec<&str> {
        self.0.into_iter().flat_map(|headers| headers.iter()).map(|(name, _)| text(name)).collect()
    }
}

fn text(name: &async_nats::HeaderName) -> &str {
    name.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_that_is_too_long_is_ignored() {
        for (length, is_read) in [(512, true), (513, false)] {
            let value = "x".repeat(length);
            let mut http = HeaderMap::new();
            http.insert("tracestate", value.parse().unwrap());
            assert_eq!(HttpHeaders(&http).get("tracestate").is_some(), is_read);
            let mut nats = async_nats::HeaderMap::new();
            nats.insert("tracestate", value.as_str());
            assert_eq!(NatsHeaders(Some(&nats)).get("tracestate").is_some(), is_read);
        }
    }
}
