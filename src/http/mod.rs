//! The HTTP transport: account events, metrics, health and the list of replicas. It translates, and holds no rule.

mod account_events;
mod front;
mod health;
mod metrics;
mod problem;
mod replicas;
mod router;

pub use self::router::HttpLimits;
pub(crate) use self::router::HttpState;
pub(crate) use self::router::{serve, serve_admin};
