//! The log, traces, trace context, and metrics of calls.

mod json;
mod log;
mod log_lines;
mod log_queue;
mod propagation;
mod quote;
mod rpc_metrics;
mod traces;

pub use self::{
    log::{LogFormat, Telemetry, TelemetryError, flush_log},
    log_lines::{LOG_LINES_DROPPED, LogLines},
    propagation::{ENTRY, HttpHeaders, NatsHeaders, enter, inject, is_entry, set_sampler, trace_id},
    quote::{excerpt, quote},
    rpc_metrics::RpcDurations,
};
