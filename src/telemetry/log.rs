//! Sets up the log, which is written to standard error with one line per event, and the traces.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _, stderr},
    panic::{self, PanicHookInfo},
    time::Duration,
};

use clap::ValueEnum;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Metadata, field, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, dynamic_filter_fn},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::{json::Json, log_queue::LOG, traces};

/// The filter that `info` stands for. What libraries log at that level is of no use to an operator, or is logged by the
/// service too.
const INFO: &str = "warn,latchkey=info";

/// Why the log or the traces cannot be set up.
#[allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error(
        "--log (LATCHKEY_LOG): {filter:?} is not a filter such as info or \"info,latchkey=debug\": {error}"
    )]
    Filter { filter: String, error: tracing_subscriber::filter::ParseError },
    /// A variable of OpenTelemetry has a value that is not supported. `error` says what is allowed.
    #[error("{name}: {error}")]
    Variable { name: String, error: String },
    /// The endpoint or another variable of the exporter is invalid. They may hold secrets, so they are not shown.
    #[error(
        "OTEL_EXPORTER_OTLP_ENDPOINT must be http://HOST:PORT or https://HOST:PORT, and the other \
         OTEL_EXPORTER_OTLP_… variables as OpenTelemetry defines them"
    )]
    Endpoint,
    /// `Telemetry::init` was called before.
    #[error("the log is set up already")]
    Twice,
    #[error("standard error: cannot start a thread that writes the log to it: {0}")]
    Thread(io::Error),
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// The log and the traces of this process.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sets up the log of this process. Sets up its traces too if `traced` is true and OpenTelemetry's variables name a
    /// collector. Must be called within the tokio runtime.
    ///
    /// # Errors
    ///
    /// See [`TelemetryError`].
    pub fn init(filter: &str, format: LogFormat, traced: bool) -> Result<Self, TelemetryError> {
        let filter = EnvFilter::try_new(if filter == "info" { INFO } else { filter })
            .map_err(|error| TelemetryError::Filter { filter: filter.to_owned(), error })?;
        let terminal = stderr().is_terminal();
        let text = match format {
            LogFormat::Auto => terminal,
            LogFormat::Text => true,
            LogFormat::Json => false,
        };
        let layer = fmt::layer().with_writer(&LOG).with_ansi(terminal);
        let layer = if text { layer.boxed() } else { layer.event_format(Json).boxed() };
        // The log takes no spans: otherwise they would be created for calls that are not traced. Without the level
        // hint, the filter would be evaluated for every event of every library.
        let events = dynamic_filter_fn(|metadata, _| metadata.is_event())
            .with_max_level_hint(LevelFilter::TRACE)
            .with_callsite_filter(event_interest);
        let log = tracing_subscriber::registry().with(layer.with_filter(filter.and(events)));

        let traces = if traced { traces::provider()? } else { None };
        let set = match &traces {
            Some(provider) => log.with(traces::layer(provider)).try_init(),
            None => log.try_init(),
        };
        set.map_err(|_| TelemetryError::Twice)?;
        LOG.start().map_err(TelemetryError::Thread)?;
        panic::set_hook(Box::new(log_panic));
        Ok(Self { traces })
    }

    /// Sends the remaining spans, for at most two seconds.
    pub async fn shut_down(self) {
        if let Some(provider) = self.traces {
            traces::shut_down(provider).await;
        }
    }
}

/// Has the filter evaluated anew for each event. When a library calls `log::log_enabled!` and then logs nothing, as
/// sqlx does for notices of PostgreSQL, tracing-subscriber 0.3 keeps the result for the next event of the thread. A
/// "no" would drop that event if the filter was not evaluated again.
fn event_interest(metadata: &'static Metadata<'static>) -> Interest {
    if metadata.is_event() { Interest::sometimes() } else { Interest::never() }
}

/// Waits until the log is written, but no longer than `timeout`. Does nothing if there is no log.
pub fn flush_log(timeout: Duration) {
    LOG.flush(timeout);
}

/// Logs a panic. The default hook writes to standard error directly, where it may block.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| field::display(backtrace));
    tracing::error!(location, backtrace, "panicked: {}", panic.payload_as_str().unwrap_or("no message"));
}
