//! The HTTP transport: account events, metrics, health. Translates, and holds no rule.

mod account_events;
mod health;
mod listener;
mod metrics;
mod problem;
mod router;

pub use self::router::{HttpLimits, HttpState, serve};
