//! What the doors measure and trace with.

mod log_lines;
mod rpc_durations;
mod trace;

pub use self::{
    log_lines::{LOG_LINES_DROPPED, LogLines},
    rpc_durations::RpcDurations,
    trace::{ENTRY, HttpHeaders, NatsHeaders, enter, hand_on, is_entry, set_sampler},
};
