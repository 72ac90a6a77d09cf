//! The domain: who may have which tokens, and when a token is good. Every rule is here once.

mod audit;
mod creation_rates;
mod error;
mod issue;
mod list;
mod purge;
mod repeat;
mod replays;
mod revoke;
mod token_registry;
mod validate;

pub use self::{
    audit::EventPage,
    creation_rates::CreationRates,
    error::RegistryError,
    issue::{Issued, NewToken, OnRepeat},
    list::Page,
    purge::{PurgedRows, Purger, Retention},
    token_registry::TokenRegistry,
    validate::{Reason, Transport, Verdict},
};
