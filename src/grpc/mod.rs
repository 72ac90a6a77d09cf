//! The gRPC transport. It translates between protobuf and the registry, and holds no rule.

mod audit_service;
mod authorization_service;
mod connection_service;
mod layers;
mod page_token;
mod server;
mod status;
mod token_service;
mod unsent_bytes;

pub use self::server::{GrpcLimits, LIVENESS, TOKEN_SERVICE, durations};
pub(crate) use self::server::{Services, serve};
