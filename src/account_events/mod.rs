//! What the identity service says about accounts: from bytes to what happened to whom. Knows no transport.

mod body;
mod counts;
mod user_deleted;

pub use self::{
    counts::EventCounts,
    user_deleted::{AccountEventError, UserDeleted},
};
