//! The gRPC transport. It translates between protobuf and the registry, and holds no rule.

mod audit_service;
mod layers;
mod page_token;
mod server;
mod status;
mod token_service;

pub use self::server::{GrpcLimits, LIVENESS, Services, TOKEN_SERVICE, durations, serve};
