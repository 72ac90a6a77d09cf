//! The NATS transport: subscribes to the identity service's account events on JetStream.

mod backoff;
mod connect;
mod consumer;
mod dead_letters;
mod delivery;
mod handler;
mod header_block;
mod raw_message;
mod recovery;
mod replay;
mod subject;
mod subscriber;

pub use self::{
    connect::{NatsError, NatsSettings},
    subscriber::{USER_EVENTS, subscribe},
};
