//! What API gateways ask before they let a request through. It translates, and holds no rule.

mod bearer;
mod forward_auth;

pub(crate) use self::forward_auth::{Gateway, verify};
