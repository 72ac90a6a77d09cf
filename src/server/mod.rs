//! The running service: wiring, readiness, shutdown.

mod listeners;
mod purge;
mod readiness;
mod shutdown;
mod wiring;

pub use self::wiring::{PreparedServer, ServeError, Server, StartError};
