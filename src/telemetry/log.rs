//! The log, one line an event, to standard error; and traces.

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

/// What the level `info` stands for. At that level the libraries tell what the service tells too, or what changes
/// nothing for an operator.
const INFO: &str = "warn,latchkey=info";

/// Why there is no log or no trace.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is wrong.
    #[error(
        "--log (LATCHKEY_LOG) is {filter:?}, which is no filter such as info or \"info,latchkey=debug\": {error}"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// Its fault.
        error: tracing_subscriber::filter::ParseError,
    },
    /// A variable of OpenTelemetry's asks for what is not there.
    #[error("{name} is {error}")]
    Variable {
        /// The variable.
        name: String,
        /// What it asks for, and what is allowed.
        error: String,
    },
    /// The endpoint or another of the exporter's variables cannot be used. They may hold secrets and are not shown.
    #[error(
        "OTEL_EXPORTER_OTLP_ENDPOINT must be http://HOST:PORT or https://HOST:PORT, and the other \
         OTEL_EXPORTER_OTLP_… variables as OpenTelemetry has them"
    )]
    Endpoint,
    /// Another log was set up before.
    #[error("the log is set up already")]
    Twice,
    /// The log cannot be written.
    #[error("standard error: cannot be written to by a thread of the log: {0}")]
    Thread(io::Error),
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// The log and the traces of this process.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sets up the log of this process and, if `traced` and a collector is set by OpenTelemetry's variables, its traces.
    /// Needs the runtime of the process to be running.
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
        // Spans are for traces: made for the log too, they would cost each call that is not traced. The hint is needed:
        // with a part that has none, every line of every level in every library is looked at.
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

    /// Sends the last spans, within two seconds or not at all.
    pub async fn shut_down(self) {
        if let Some(provider) = self.traces {
            traces::shut_down(provider).await;
        }
    }
}

/// Has the filter asked anew for each event. When a library asks by `log::log_enabled!` and then logs nothing, as sqlx does
/// for notices of PostgreSQL, tracing-subscriber 0.3 keeps the answer for the next event of the thread. A "no" would drop
/// that event, unless the filter is asked again.
fn event_interest(metadata: &'static Metadata<'static>) -> Interest {
    if metadata.is_event() { Interest::sometimes() } else { Interest::never() }
}

/// Waits until the log is written, but no longer than `bound`. Does nothing if there is no log.
pub fn flush_log(bound: Duration) {
    LOG.flush(bound);
}

/// Reports a panic as a line of the log. The default hook writes to standard error itself, and may block there.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| field::display(backtrace));
    tracing::error!(location, backtrace, "panicked: {}", panic.payload_as_str().unwrap_or("no message"));
}
