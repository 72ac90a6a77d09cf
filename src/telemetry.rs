//! The log: one line an event, to standard error.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::{EnvFilter, fmt::Layer, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::LogFormat;

/// Why there is no log.
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
    /// Another log was set up before.
    #[error("the log is set up already")]
    Twice,
}

/// Sets up the log of this process.
///
/// # Errors
///
/// See [`TelemetryError`].
pub fn init(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|fault| TelemetryError::Filter { filter: filter.to_owned(), fault })?;
    let terminal = stderr().is_terminal();
    let text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let log = tracing_subscriber::registry().with(filter);
    let layer = Layer::default().with_writer(stderr).with_ansi(terminal);
    let set =
        if text { log.with(layer).try_init() } else { log.with(layer.json().flatten_event(true)).try_init() };
    set.map_err(|_| TelemetryError::Twice)
}
