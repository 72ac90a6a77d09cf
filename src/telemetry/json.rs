//! Formats the log as one JSON object per line, without duplicate keys.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

/// Formats events as JSON. The formatter of tracing-subscriber writes duplicate keys, which many JSON parsers refuse or
/// drop. This one appends an underscore to a field whose name is taken.
#[derive(Debug)]
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // Events of the crate `log` carry their target in a field.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut line = Line(Vec::new());
        line.push("timestamp", timestamp.into());
        line.push("level", metadata.level().as_str().into());
        line.push("target", metadata.target().into());
        event.record(&mut line);
        writeln!(writer, "{}", serde_json::to_string(&line).map_err(|_| fmt::Error)?)
    }
}

/// The keys and values of a line, in order.
struct Line(Vec<(String, Value)>);

impl Line {
    fn push(&mut self, name: &str, value: Value) {
        let mut name = name.to_owned();
        while self.0.iter().any(|(taken, _)| *taken == name) {
            name.push('_');
        }
        self.0.push((name, value));
    }

    fn record(&mut self, field: &Field, value: Value) {
        // These fields say where an event of the crate `log` comes from. The line has its target already.
        if !field.name().starts_with("log.") {
            let value = if field.name() == "backtrace" { value } else { bounded(value) };
            self.push(field.name(), value);
        }
    }
}

/// The longest text in a line, in bytes, but for a backtrace. What callers send is quoted in short where it is logged;
/// this holds for errors of libraries too.
const MAX_TEXT: usize = 2 * 1024;

/// Cuts a text that is too long.
fn bounded(value: Value) -> Value {
    match value {
        Value::String(mut text) if text.len() > MAX_TEXT => {
            text.truncate(text.floor_char_boundary(MAX_TEXT));
            text.push_str("...");
            text.into()
        }
        short => short,
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        let output = Output::default();
        let writer = output.clone();
        let log = tracing_subscriber::fmt().event_format(Json).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(
                error = "é".repeat(100_000),
                backtrace = "x".repeat(10_000),
                "{}",
                "y".repeat(100_000)
            );
        });
        let line: Value = serde_json::from_slice(&output.0.lock().unwrap()).unwrap();
        for (field, expected) in [
            ("error", "é".repeat(1024) + "..."),
            ("message", "y".repeat(2048) + "..."),
            ("backtrace", "x".repeat(10_000)),
        ] {
            assert_eq!(line[field], expected, "{field}");
        }
    }

    #[test]
    fn a_field_whose_name_is_taken_is_renamed() {
        let output = Output::default();
        let writer = output.clone();
        let log = tracing_subscriber::fmt().event_format(Json).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(message = 7, level = "low", count = 1_u64, done = true, "it \"failed\"");
        });
        let line = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        let (_, rest) = line.split_once("Z\",").unwrap();
        assert_eq!(
            rest,
            "\"level\":\"WARN\",\"target\":\"latchkey::telemetry::json::tests\",\"message\":\"it \\\"failed\\\"\",\
             \"message_\":7,\"level_\":\"low\",\"count\":1,\"done\":true}\n"
        );
    }
}
