//! What the doors measure and trace with.

mod rpc_durations;
mod trace;

pub use self::{
    rpc_durations::RpcDurations,
    trace::{ENTRY, HttpHeaders, NatsHeaders, enter, hand_on, is_entry, set_sampler},
};
