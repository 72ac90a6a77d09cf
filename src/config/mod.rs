//! The settings: their names, defaults and allowed values.

mod callers;
mod database;
mod environment;
mod error;
mod gateway;
mod load;
mod nats;
mod page;
mod retention;
mod serve;
mod tls;
mod values;

pub use self::{
    callers::CallersConfig, database::DatabaseConfig, environment::check_environment, error::ConfigError,
    gateway::GatewayConfig, load::parse, nats::NatsConfig, page::PageConfig, retention::RetentionConfig,
    serve::Config, tls::TlsConfig,
};
pub(crate) use self::{
    database::DATA_DIR,
    serve::{ADMIN_ADDR, GRPC_ADDR, KEY_RING},
};
