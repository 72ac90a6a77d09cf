//! What the identity service says of its users: UserDeleted, by NATS JetStream or by HTTP.

mod backoff;
mod body;
mod connection;
mod consumer;
mod counts;
mod dead_letters;
mod handler;
mod header_block;
mod recovery;
mod subject;
mod subscriber;
mod user_deleted;

pub use self::{
    connection::{NatsError, NatsSettings},
    counts::EventCounts,
    subscriber::{USER_EVENTS, subscribe},
    user_deleted::{Unreadable, UserDeleted},
};
