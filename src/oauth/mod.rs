//! OAuth 2.0, for gateways and libraries that know it. It translates, and holds no rule.

use std::sync::Arc;

use crate::registry::TokenRegistry;

mod form;
mod introspection;
mod issuer;
mod metadata;
mod revocation;

pub use self::issuer::Issuer;
pub(crate) use self::{introspection::introspect, metadata::metadata, revocation::revoke};

/// What answers clients of OAuth.
#[derive(Clone, Debug)]
pub(crate) struct OAuth {
    pub(crate) registry: Arc<TokenRegistry>,
    /// This service's name among authorization servers, if it has one.
    pub(crate) issuer: Option<Issuer>,
}
