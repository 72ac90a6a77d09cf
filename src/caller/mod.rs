//! Who is calling, and what that caller may do.
//!
//! A request is admitted in one place, [`Callers::admit`], for gRPC and HTTP alike: each scheme of a file of its own says
//! whose its credential is, and the policy says what that caller may do. For whom it may act, the registry checks with the
//! [`Caller`] that every one of its methods takes.

mod callers;
mod client_certificate;
mod credentials;
mod failures;
mod file;
mod id_token;
mod identity;
mod jwks;
mod jwt;
mod policy;
mod refusals;
mod scheme;
mod shared_secret;

pub use self::{
    callers::{Admission, Callers},
    file::CallersError,
    id_token::{IdTokens, Identified},
    identity::{Caller, NotAllowed},
    policy::{Access, Endpoint, POLICY, Role, endpoint_name, table},
    refusals::{Refusal, Refusals},
    shared_secret::{ShortSecret, generate_secret, hash_secret},
};
