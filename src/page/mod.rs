//! The web page on which people create, see and delete their own tokens.
//!
//! It is rendered here, works without JavaScript, and calls the registry as the user that [`person`] has recognised.

mod assets;
mod creation;
mod deletion;
mod forgery;
mod form;
mod frame_ancestors;
mod html;
mod icons;
mod list;
mod logo;
mod oidc;
mod person;
mod response;
mod sealed;
mod session;
mod texts;
mod theme;
mod times;

use std::sync::Arc;

use axum::routing::{MethodRouter, get, post};

pub use self::{
    frame_ancestors::{FrameAncestors, FrameAncestorsError},
    theme::{Accent, AccentError},
};
pub(crate) use self::{logo::Logo, oidc::Oidc, sealed::Sealer, session::Lengths};
use crate::{caller::Callers, registry::TokenRegistry, token::Scope};

/// Where the page is.
pub(crate) const PATH: &str = "/personal-api-tokens";
/// Where the form for a token is.
const NEW: &str = "/personal-api-tokens/new";

/// The page, as the handlers get it.
#[derive(Clone, Debug)]
pub(crate) struct Page(pub(crate) Arc<PageState>);

/// What the handlers of the page share.
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
    /// The style sheet with the shades of the accent colour.
    pub colors: String,
    pub logo: Option<Logo>,
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
        (NEW, get(creation::form).post(creation::create)),
        ("/personal-api-tokens/{id}/delete", get(deletion::ask).post(deletion::delete)),
        ("/personal-api-tokens/user", post(person::choose)),
        ("/personal-api-tokens/callback", get(session::callback)),
        ("/personal-api-tokens/sign-out", post(session::sign_out)),
        ("/personal-api-tokens/signed-out", get(session::signed_out)),
        ("/personal-api-tokens/page.css", get(assets::style)),
        ("/personal-api-tokens/page.js", get(assets::script)),
        ("/personal-api-tokens/logo", get(logo::show)),
    ]
}
