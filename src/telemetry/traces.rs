//! Traces: spans by OTLP over gRPC to a collector, set up by OpenTelemetry's own variables.
//!
//! Spans wait in a queue of bounded size and are sent by a thread of their own; with the collector away they are
//! dropped.

use std::{env, fs, time::Duration};

use opentelemetry::{Key, KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{
    Protocol, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig},
};
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
use crate::telemetry::{is_entry, set_sampler};

/// How long the last spans may take on their way out.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Where spans go; none if no endpoint is set.
///
/// # Errors
///
/// The variables ask for what is not there.
pub(super) fn provider() -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let none = set("OTEL_TRACES_EXPORTER").is_some_and(|name| name == "none");
    let endpoint = set_for_traces("ENDPOINT").filter(|_| !disabled && !none);
    let Some((_, endpoint)) = endpoint else { return Ok(None) };
    // The exporter takes "localhost:4317" too, and then never sends anything.
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        return Err(TelemetryError::Endpoint);
    }
    check_sampler()?;
    check_exporter()?;
    let mut exporter = SpanExporter::builder().with_tonic().with_protocol(Protocol::Grpc);
    if let Some((name, file)) = set_for_traces("CERTIFICATE") {
        let error = |error: std::io::Error| wrong(&name, format!("{file:?}, which cannot be read: {error}"));
        let authority = fs::read_to_string(&file).map_err(error)?;
        // The exporter passes over a file without one, and then trusts nobody.
        if !authority.contains("-----BEGIN CERTIFICATE-----") {
            return Err(wrong(&name, format!("{file:?}, which has no certificate in PEM")));
        }
        let authority = Certificate::from_pem(authority);
        exporter = exporter.with_tls_config(ClientTlsConfig::new().ca_certificate(authority));
    }
    let exporter = exporter.build().map_err(|_| TelemetryError::Endpoint)?;
    // Reads the variables of the sampler. It decides where a trace comes in; what got in is taken.
    set_sampler(Config::default().sampler);
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
    Ok(Some(provider.with_sampler(Sampler::AlwaysOn).with_resource(resource()).build()))
}

/// The value of a variable; an empty one counts as none.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The exporter's variable of this name and its value: that for traces, else that for everything.
fn set_for_traces(name: &str) -> Option<(String, String)> {
    let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
    names.into_iter().find_map(|name| set(&name).map(|value| (name, value)))
}

/// OpenTelemetry would trace everything instead, before there is a log to say so in.
fn check_sampler() -> Result<(), TelemetryError> {
    let (name, argument) = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG");
    let Some(sampler) = set(name) else { return Ok(()) };
    if !SAMPLERS.contains(&sampler.as_str()) {
        return Err(wrong(name, format!("{sampler:?}, which is none of {}", SAMPLERS.join(", "))));
    }
    match set(argument) {
        Some(ratio) if sampler.ends_with("ratio") && !is_ratio(&ratio) => {
            Err(wrong(argument, format!("{ratio:?}; a ratio is from 0 to 1, such as 0.01")))
        }
        _ => Ok(()),
    }
}

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

fn is_ratio(text: &str) -> bool {
    text.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio))
}

/// What the exporter would pass over.
fn check_exporter() -> Result<(), TelemetryError> {
    for (name, allowed) in [("PROTOCOL", "grpc"), ("COMPRESSION", "none")] {
        if let Some((name, value)) = set_for_traces(name)
            && value != allowed
        {
            return Err(wrong(&name, format!("{value:?}; only {allowed:?} is spoken")));
        }
    }
    match set_for_traces("CLIENT_CERTIFICATE").or_else(|| set_for_traces("CLIENT_KEY")) {
        Some((name, _)) => Err(wrong(&name, "set; certificates of clients are not supported".to_owned())),
        None => Ok(()),
    }
}

fn wrong(name: &str, error: String) -> TelemetryError {
    TelemetryError::Variable { name: name.to_owned(), error }
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
    if let Ok(Err(error)) = sent.await {
        tracing::warn!(%error, "the last spans were not sent");
    }
}
