//! The settings: their names, defaults and allowed values.

mod database;
mod environment;
mod error;
mod load;
mod nats;
mod retention;
mod serve;
mod values;

pub(crate) use self::{
    database::DATA_DIR,
    serve::{GRPC_ADDR, KEY_RING},
};
pub use self::{
    database::DatabaseConfig, environment::check_environment, error::ConfigError, load::parse,
    nats::NatsConfig, retention::RetentionConfig, serve::Config,
};
