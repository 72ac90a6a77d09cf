//! What the identity service says of its users: UserDeleted, by NATS JetStream or by HTTP.

mod counts;
mod dead_letters;
mod subscriber;
mod user_deleted;

pub use self::{
    counts::EventCounts,
    subscriber::{NatsError, NatsSettings, USER_EVENTS, subscribe},
    user_deleted::{Unreadable, UserDeleted},
};
