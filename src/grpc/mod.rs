//! The gRPC transport. It translates between protobuf and the registry, and holds no rule.

mod layers;
mod page_token;
mod server;
mod status;
mod token_service;

pub use self::server::{GrpcLimits, LIVENESS, TOKEN_SERVICE, durations, serve};
