//! The HTTP transport: account events, metrics and health. It translates, and holds no rule.

mod account_events;
mod health;
mod listener;
mod metrics;
mod problem;
mod router;

pub use self::router::{HttpLimits, HttpState, serve};
