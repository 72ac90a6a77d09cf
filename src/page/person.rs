//! Who the user of the page is.

use axum::{
    Form,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;

use super::{
    PATH, Page, PageState, Recognition,
    forgery::{cookie, is_own, set_cookie},
    html::{self, View},
    response::see_other,
    session::{Session, sign_in},
    texts::ENGLISH as TEXTS,
};
use crate::{caller::Caller, token::UserId};

/// The cookie with the user that was chosen in development.
const USER: &str = "latchkey-user";

/// A user whom the page has recognised.
pub(super) struct Person {
    pub(super) user: UserId,
    pub(super) caller: Caller,
    /// The session, after a login.
    pub(super) session: Option<Session>,
}

impl Person {
    /// Recognises the user of a request. A browser that asks for a page, `to` below the path, is sent to log in first.
    ///
    /// # Errors
    ///
    /// The answer to a request whose user is not known.
    pub(super) async fn of(
        state: &PageState,
        headers: &HeaderMap,
        to: Option<&str>,
    ) -> Result<Self, Response> {
        let refused =
            || View::new(state, headers, None).message(StatusCode::UNAUTHORIZED, TEXTS.not_signed_in);
        match &state.recognition {
            Recognition::Off => {
                Err(View::new(state, headers, None).message(StatusCode::NOT_FOUND, TEXTS.off))
            }
            Recognition::Development => {
                let user = cookie(headers, USER)
                    .and_then(|text| percent_decode_str(text).decode_utf8().ok()?.parse::<UserId>().ok());
                let Some(user) = user else { return Err(html::choose_user(state, headers, "", None)) };
                Ok(Self { caller: Caller::of_user(user.clone()), user, session: None })
            }
            Recognition::Jwt(header) => {
                let mut values = headers.get_all(header).iter();
                let (Some(value), None) = (values.next(), values.next()) else { return Err(refused()) };
                let text = value.to_str().unwrap_or_default();
                // Some proxies write it as a bearer credential.
                let jwt = text.strip_prefix("Bearer ").unwrap_or(text).trim();
                let caller = state.callers.user(jwt).await.map_err(|refusal| match refusal {
                    crate::caller::Refusal::Unavailable => View::new(state, headers, None)
                        .message(StatusCode::SERVICE_UNAVAILABLE, TEXTS.unavailable),
                    _ => refused(),
                })?;
                let Some(user) = caller.own_user().cloned() else { return Err(refused()) };
                Ok(Self { user, caller, session: None })
            }
            Recognition::Oidc(oidc) => {
                let session = Session::of(state, oidc, headers);
                let known = session.and_then(|session| Some((session.user.parse::<UserId>().ok()?, session)));
                match (known, to) {
                    (Some((user, session)), _) => {
                        Ok(Self { caller: Caller::of_user(user.clone()), user, session: Some(session) })
                    }
                    (None, Some(to)) => Err(sign_in(state, oidc, headers, to, false).await),
                    (None, None) => Err(refused()),
                }
            }
        }
    }
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
    if !matches!(state.recognition, Recognition::Development) || !is_own(&state, &headers, &choice.key) {
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
