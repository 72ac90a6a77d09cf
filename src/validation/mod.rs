//! Authenticates bearer tokens: from the cache while the lease holds, otherwise from the database.

mod cache;
mod cold_permits;
mod id_hash;
mod last_used;
mod lease;
mod lookup;
mod replica_notes;
mod replica_watch;
mod revocation_tail;
mod statistics;
mod transitions;

pub use self::{
    cache::BYTES_PER_ENTRY,
    last_used::LastUsed,
    lookup::{Authenticated, Authenticator, LookupError, ValidationLimits},
    replica_watch::WaitStatistics,
    revocation_tail::RevocationTail,
    statistics::ValidationStatistics,
};
