//! From a bearer token to the token that it proves: from memory where it was verified before and nothing was revoked since
//! that this replica could have missed; else from the database.

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
