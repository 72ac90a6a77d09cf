//! Traces: spans are sent to a collector by OTLP over gRPC, as OpenTelemetry's own variables configure it.
//!
//! Spans wait in a bounded queue, and a separate thread sends them. While the collector is unavailable, they are
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

use super::{TelemetryError, is_entry, set_sampler};

/// How long to wait at shutdown until the remaining spans are sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Creates the exporter of spans, if an endpoint is set.
///
/// # Errors
///
/// A variable has a value that is invalid or not supported.
pub(super) fn provider() -> Result<Option<SdkTracerProvider>, TelemetryError> {
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let none = set("OTEL_TRACES_EXPORTER").is_some_and(|name| name == "none");
    let endpoint = set_for_traces("ENDPOINT").filter(|_| !disabled && !none);
    let Some((_, endpoint)) = endpoint else { return Ok(None) };
    // The exporter would accept "localhost:4317" too, and then never send anything.
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        return Err(TelemetryError::Endpoint);
    }
    check_sampler()?;
    check_exporter()?;
    let mut exporter = SpanExporter::builder().with_tonic().with_protocol(Protocol::Grpc);
    if let Some(certificate) = ca_certificate()? {
        exporter = exporter.with_tls_config(ClientTlsConfig::new().ca_certificate(certificate));
    }
    let exporter = exporter.build().map_err(|_| TelemetryError::Endpoint)?;
    // `Config::default` reads the sampler's variables. The sampler decides once per call, before a span is created, so
    // the provider takes every span.
    set_sampler(Config::default().sampler);
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
    Ok(Some(provider.with_sampler(Sampler::AlwaysOn).with_resource(resource()).build()))
}

/// Returns the CA certificate of the collector, if one is set.
fn ca_certificate() -> Result<Option<Certificate>, TelemetryError> {
    let Some((name, file)) = set_for_traces("CERTIFICATE") else { return Ok(None) };
    let pem = fs::read_to_string(&file)
        .map_err(|error| invalid(&name, format!("{file:?} cannot be read: {error}")))?;
    // The exporter would ignore a file without a certificate, and then trust no server.
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        return Err(invalid(&name, format!("{file:?} contains no PEM certificate")));
    }
    Ok(Some(Certificate::from_pem(pem)))
}

/// Returns the value of a variable. An empty value counts as not set.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the exporter's variable of this name and its value: the one for traces, else the one for all signals.
fn set_for_traces(name: &str) -> Option<(String, String)> {
    let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
    names.into_iter().find_map(|name| set(&name).map(|value| (name, value)))
}

/// Checks the variables of the sampler. With invalid ones, OpenTelemetry would trace everything, and the log that could
/// say so is not set up yet.
fn check_sampler() -> Result<(), TelemetryError> {
    let (name, argument) = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG");
    let Some(sampler) = set(name) else { return Ok(()) };
    if !SAMPLERS.contains(&sampler.as_str()) {
        return Err(invalid(name, format!("{sampler:?} is not one of {}", SAMPLERS.join(", "))));
    }
    match set(argument) {
        Some(ratio) if sampler.ends_with("ratio") && !is_ratio(&ratio) => {
            Err(invalid(argument, format!("{ratio:?} is not a ratio from 0 to 1, such as 0.01")))
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

/// Refuses variables that the exporter would ignore.
fn check_exporter() -> Result<(), TelemetryError> {
    for (name, allowed) in [("PROTOCOL", "grpc"), ("COMPRESSION", "none")] {
        if let Some((name, value)) = set_for_traces(name)
            && value != allowed
        {
            return Err(invalid(&name, format!("{value:?} is not supported; only {allowed:?} is")));
        }
    }
    match set_for_traces("CLIENT_CERTIFICATE").or_else(|| set_for_traces("CLIENT_KEY")) {
        Some((name, _)) => Err(invalid(&name, "client certificates are not supported; unset it".to_owned())),
        None => Ok(()),
    }
}

fn invalid(name: &str, error: String) -> TelemetryError {
    TelemetryError::Variable { name: name.to_owned(), error }
}

/// Returns the attributes of this service. OpenTelemetry's variables may add some and change its name.
fn resource() -> Resource {
    let configured = Resource::builder().build();
    let name = configured.get(&Key::from_static_str("service.name")).map(|name| name.to_string());
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

/// Takes the spans of calls and, within those, the spans of this service and its database.
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

/// Sends the remaining spans, for at most [`FLUSH_TIMEOUT`].
pub(super) async fn shut_down(provider: SdkTracerProvider) {
    // `shutdown_with_timeout` blocks.
    let sent = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT));
    if let Ok(Err(error)) = sent.await {
        tracing::warn!(%error, "the remaining spans were not sent");
    }
}
