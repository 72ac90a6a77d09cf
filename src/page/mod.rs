//! The web page on which people create, see and delete their own tokens.
//!
//! It is rendered here, works without JavaScript, and calls the registry as the user that [`person`] has recognised.

mod creation;
mod deletion;
mod forgery;
mod html;
mod list;
mod oidc;
mod person;
mod response;
mod sealed;
mod session;
mod style;
mod texts;

use std::sync::Arc;

use axum::routing::{MethodRouter, get, post};

pub use self::style::{Accent, AccentError, FrameAncestors, FrameAncestorsError};
pub(crate) use self::{oidc::Oidc, sealed::Sealer};
use crate::{caller::Callers, registry::TokenRegistry, token::Scope};

/// Where the page is.
pub(crate) const PATH: &str = "/personal-api-tokens";

/// What the page is made of.
#[derive(Clone, Debug)]
pub(crate) struct Page(pub(crate) Arc<PageState>);

/// What the page is made of.
#[derive(Debug)]
#[allow(missing_docs)]
pub(crate) struct PageState {
    pub registry: Arc<TokenRegistry>,
    pub callers: Arc<Callers>,
    pub recognition: Recognition,
    pub look: Look,
    /// The scopes that can be chosen, with what each allows. Empty: a text field.
    pub scopes: Vec<(Scope, String)>,
}

/// How the page knows who its user is.
#[derive(Debug)]
pub(crate) enum Recognition {
    /// By a login with an OpenID provider.
    Oidc(Box<Oidc>),
    /// By a JWT that a proxy in front of the page puts into this header.
    Jwt(axum::http::HeaderName),
    /// By what the user says: for development, on loopback only.
    Development,
    /// Not at all, so there is no page.
    Off,
}

/// What a product can change.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub(crate) struct Look {
    pub product: String,
    pub accent: Accent,
    pub back: Option<String>,
    pub frame_ancestors: FrameAncestors,
    /// The URL in the example of a request.
    pub api: String,
}

/// Returns the routes of the page.
pub(crate) fn routes<S>() -> Vec<(&'static str, MethodRouter<S>)>
where
    S: Clone + Send + Sync + 'static,
    Page: axum::extract::FromRef<S>,
{
    vec![
        (PATH, get(list::show)),
        ("/personal-api-tokens/new", get(creation::form).post(creation::create)),
        ("/personal-api-tokens/{id}/delete", get(deletion::ask).post(deletion::delete)),
        ("/personal-api-tokens/user", post(person::choose)),
        ("/personal-api-tokens/callback", get(session::callback)),
        ("/personal-api-tokens/sign-out", post(session::sign_out)),
        ("/personal-api-tokens/signed-out", get(session::signed_out)),
        ("/personal-api-tokens/page.css", get(style::css)),
        ("/personal-api-tokens/page.js", get(style::script)),
    ]
}
