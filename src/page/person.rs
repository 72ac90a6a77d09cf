//! Who the user of the page is.

use std::net::IpAddr;

use axum::{
    Form,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{GetAll, HOST},
        uri::Authority,
    },
    response::Response,
};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;

use super::{
    PATH, Page, PageState, Recognition,
    forgery::{cookie, is_own, set_cookie},
    html::{self, Link, View},
    response::see_other,
    session::{Session, sign_in},
    texts::ENGLISH as TEXTS,
};
use crate::{
    caller::{Caller, Refusal},
    token::UserId,
};

/// The cookie with the user that was chosen in development.
const USER: &str = "latchkey-user";

/// A user whom the page has recognised.
pub(super) struct Person {
    pub(super) user: UserId,
    pub(super) caller: Caller,
    /// The session, after a login.
    pub(super) session: Option<Session>,
}

/// Why it is not known who the user is.
#[derive(Debug)]
pub(super) enum Unknown {
    NotSignedIn,
    /// In development, nobody has been chosen.
    NotChosen,
    /// In development, `Host` is neither localhost nor a loopback address.
    NotLoopback,
    /// The user cannot be checked now, for example because the issuer or the OpenID provider cannot be reached.
    Unavailable,
    /// The page is not set up.
    Off,
}

impl Unknown {
    /// Returns the page for this case.
    pub(super) fn answer(&self, state: &PageState, headers: &HeaderMap) -> Response {
        let view = View::new(state, headers, None);
        match self {
            Self::NotSignedIn => {
                view.message_with(StatusCode::UNAUTHORIZED, TEXTS.not_signed_in, Some(Link::SIGN_IN))
            }
            Self::NotLoopback => view.message(StatusCode::FORBIDDEN, TEXTS.not_loopback),
            Self::NotChosen => html::choose_user(state, headers, "", None),
            Self::Unavailable => view.message(StatusCode::SERVICE_UNAVAILABLE, TEXTS.unavailable),
            Self::Off => view.message(StatusCode::NOT_FOUND, TEXTS.off),
        }
    }
}

impl Person {
    /// Whether a form was on a page of this user. A browser may have signed in as another one since; a form that does not say it is
    /// no browser's.
    pub(super) fn is_shown(&self, shown_to: &str) -> bool {
        shown_to.is_empty() || shown_to == self.user.as_str()
    }

    /// Recognises the user of a request.
    ///
    /// # Errors
    ///
    /// [`Unknown`].
    pub(super) async fn of(state: &PageState, headers: &HeaderMap) -> Result<Self, Unknown> {
        match &state.recognition {
            Recognition::Off => Err(Unknown::Off),
            Recognition::Development if !is_to_loopback(headers) => Err(Unknown::NotLoopback),
            Recognition::Development => {
                let user = cookie(headers, USER)
                    .and_then(|text| percent_decode_str(text).decode_utf8().ok()?.parse::<UserId>().ok());
                let user = user.ok_or(Unknown::NotChosen)?;
                Ok(Self { caller: Caller::of_user(user.clone()), user, session: None })
            }
            Recognition::Jwt(header) => Self::of_jwt(state, headers.get_all(header)).await,
            Recognition::Oidc(oidc) => {
                let session = Session::of(state, oidc, headers).ok_or(Unknown::NotSignedIn)?;
                let user = session.user.parse::<UserId>().map_err(|_| Unknown::NotSignedIn)?;
                Ok(Self { caller: Caller::of_user(user.clone()), user, session: Some(session) })
            }
        }
    }

    async fn of_jwt(state: &PageState, values: GetAll<'_, HeaderValue>) -> Result<Self, Unknown> {
        let mut values = values.iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Err(Unknown::NotSignedIn) };
        let text = value.to_str().unwrap_or_default();
        // Some proxies write it as a bearer credential.
        let jwt = text.strip_prefix("Bearer ").unwrap_or(text).trim();
        let caller = state.callers.user(jwt).await.map_err(|refusal| match refusal {
            Refusal::Unavailable => Unknown::Unavailable,
            _ => Unknown::NotSignedIn,
        })?;
        let user = caller.own_user().cloned().ok_or(Unknown::NotSignedIn)?;
        Ok(Self { user, caller, session: None })
    }

    /// Recognises the user of a browser that asks for a page, `to` below the path, or sends it to log in first.
    ///
    /// # Errors
    ///
    /// The answer to a request whose user is not known.
    pub(super) async fn or_sign_in(
        state: &PageState,
        headers: &HeaderMap,
        to: &str,
    ) -> Result<Self, Response> {
        match (Self::of(state, headers).await, &state.recognition) {
            (Ok(person), _) => Ok(person),
            // Providers refuse to be shown in frames.
            (Err(Unknown::NotSignedIn), Recognition::Oidc(_)) if is_framed(headers) => {
                let view = View::new(state, headers, None);
                let link = Some(Link::SIGN_IN_IN_NEW_TAB);
                Err(view.message_with(StatusCode::UNAUTHORIZED, TEXTS.framed, link))
            }
            (Err(Unknown::NotSignedIn), Recognition::Oidc(oidc)) => {
                Err(sign_in(state, oidc, headers, to, false).await)
            }
            (Err(unknown), _) => Err(unknown.answer(state, headers)),
        }
    }
}

/// Whether the address in the browser is one of this machine. Another site can give its own name the address 127.0.0.1 (DNS
/// rebinding): to the browser its pages are then of the same origin as this one, but `Host` has that name.
fn is_to_loopback(headers: &HeaderMap) -> bool {
    // Browsers always send it.
    let Some(host) = headers.get(HOST) else { return true };
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let name = authority.host();
        let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
        address.map_or_else(|_| name.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
    })
}

/// Whether the browser shows the answer in a frame.
fn is_framed(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-dest").is_some_and(|to| to == "iframe" || to == "frame")
}

#[derive(Deserialize)]
pub(super) struct Choice {
    #[serde(default)]
    key: String,
    #[serde(default)]
    user: String,
}

/// Takes the user that is chosen in development. An empty one is asked for again.
pub(super) async fn choose(
    State(Page(state)): State<Page>,
    headers: HeaderMap,
    Form(choice): Form<Choice>,
) -> Response {
    let is_development = matches!(state.recognition, Recognition::Development) && is_to_loopback(&headers);
    if !is_development || !is_own(&state, &headers, &choice.key) {
        return View::new(&state, &headers, None).message(StatusCode::FORBIDDEN, TEXTS.forged);
    }
    let user = choice.user.trim();
    if !user.is_empty() && user.parse::<UserId>().is_err() {
        return html::choose_user(&state, &headers, user, Some(TEXTS.user_wrong));
    }
    let mut response = see_other(PATH);
    let value = utf8_percent_encode(user, NON_ALPHANUMERIC).to_string();
    set_cookie(&state, response.headers_mut(), USER, &value);
    response
}
