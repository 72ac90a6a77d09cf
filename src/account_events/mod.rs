//! Account events of the identity service: decodes what happened to which account. Knows no transport.

mod body;
mod cloud_event;
mod counts;
mod error;
mod user_deleted;

pub use self::{counts::EventCounts, error::AccountEventError, user_deleted::UserDeleted};
