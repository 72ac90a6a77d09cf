//! What API gateways ask before they let a request through. It translates, and holds no rule.

mod credential;
mod decision;
mod forward_auth;

pub(crate) use self::{
    credential::Credential,
    decision::{Decision, Denial, Gateway, IDENTITY, identity},
    forward_auth::verify,
};
