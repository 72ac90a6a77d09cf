//! The log, one line an event, to standard error; and traces.

mod traces;

use std::io::{IsTerminal as _, stderr};

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::config::LogFormat;

/// Why there is no log or no trace.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is wrong.
    #[error(
        "--log (LATCHKEY_LOG) is {filter:?}, which is no filter such as info or \"info,latchkey=debug\": {fault}"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// Its fault.
        fault: tracing_subscriber::filter::ParseError,
    },
    /// A variable of OpenTelemetry's asks for what is not there.
    #[error("{name} is {fault}")]
    Variable {
        /// The variable.
        name: String,
        /// What it asks for, and what is allowed.
        fault: String,
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
        let filter = EnvFilter::try_new(filter)
            .map_err(|fault| TelemetryError::Filter { filter: filter.to_owned(), fault })?;
        let terminal = stderr().is_terminal();
        let text = match format {
            LogFormat::Auto => terminal,
            LogFormat::Text => true,
            LogFormat::Json => false,
        };
        let layer = fmt::layer().with_writer(stderr).with_ansi(terminal);
        let layer = if text { layer.boxed() } else { layer.json().flatten_event(true).boxed() };
        // Spans are for traces: made for the log too, they would cost each call that is not traced. The hint is needed:
        // with a part that has none, every line of every level in every library is looked at.
        let events = filter_fn(|metadata| metadata.is_event()).with_max_level_hint(LevelFilter::TRACE);
        let log = tracing_subscriber::registry().with(layer.with_filter(filter.and(events)));

        let traces = if traced { traces::provider()? } else { None };
        let set = match &traces {
            Some(provider) => log.with(traces::layer(provider)).try_init(),
            None => log.try_init(),
        };
        set.map_err(|_| TelemetryError::Twice)?;
        Ok(Self { traces })
    }

    /// Sends the last spans, within two seconds or not at all.
    pub async fn shut_down(self) {
        if let Some(provider) = self.traces {
            traces::shut_down(provider).await;
        }
    }
}
