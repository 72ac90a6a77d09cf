//! Traces: spans by OTLP over gRPC to a collector, set up by OpenTelemetry's own variables.
//!
//! Spans wait in a queue of bounded size and are sent by a thread of their own; with the collector away they are
//! dropped.

use std::{env, time::Duration};

use opentelemetry::{Key, KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Config, Sampler, SdkTracerProvider},
};
use tracing::{Level, Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    Layer,
    layer::{Context, Filter},
    registry::LookupSpan,
};

use super::TelemetryError;
use crate::instrumentation::{is_entry, set_sampler};

/// How long the last spans may take on their way out.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Where spans go; none if no endpoint is set.
///
/// # Errors
///
/// The variables ask for what is not there.
pub(super) fn provider() -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if endpoint.is_none() || disabled || set("OTEL_TRACES_EXPORTER").is_some_and(|name| name == "none") {
        return Ok(None);
    }
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        match set(name) {
            Some(protocol) if protocol != "grpc" => {
                return Err(TelemetryError::Protocol { name, protocol });
            }
            _ => {}
        }
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_protocol(opentelemetry_otlp::Protocol::Grpc)
        .build()
        .map_err(|_| TelemetryError::Endpoint)?;
    // Reads the variables of the sampler. It decides where a trace comes in; what got in is taken.
    set_sampler(Config::default().sampler);
    Ok(Some(
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource())
            .build(),
    ))
}

/// What the variables say of this service; its name is known without them.
fn resource() -> Resource {
    let said = Resource::builder().build();
    let name = said.get(&Key::from_static_str("service.name")).map(|name| name.to_string());
    let builder =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    match name {
        Some(name) if !name.starts_with("unknown_service") => builder.with_service_name(name).build(),
        _ => builder.with_service_name("latchkey").build(),
    }
}

pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("latchkey"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(Traced)
}

/// Takes the ways into the service and, within them, what this service and its database do.
struct Traced;

impl<S> Filter<S> for Traced
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        may_be_traced(metadata) && (is_entry(metadata) || context.lookup_current().is_some())
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if may_be_traced(metadata) { Interest::sometimes() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

fn may_be_traced(metadata: &Metadata<'_>) -> bool {
    let ours = ["latchkey", "sea_orm"].iter().any(|name| metadata.target().starts_with(name));
    ours && metadata.is_span() && *metadata.level() <= Level::INFO
}

/// Sends what is left, but not for ever.
pub(super) async fn shut_down(provider: SdkTracerProvider) {
    // Blocks until it is sent.
    let sent = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_SPANS));
    if let Ok(Err(fault)) = sent.await {
        tracing::warn!(%fault, "the last spans were not sent");
    }
}
