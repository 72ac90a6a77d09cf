//! Authenticates bearer tokens: from the cache if it is fresh, otherwise from the database.

mod cache;
mod last_used;
mod lookup;
mod revocation_tail;

pub use self::{
    cache::BYTES_PER_ENTRY,
    last_used::LastUsed,
    lookup::{Authenticated, Authenticator, CacheStatistics, LookupError, ValidationLimits},
    revocation_tail::RevocationTail,
};
