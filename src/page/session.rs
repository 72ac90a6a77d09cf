//! A session after a login, in an encrypted cookie.

use std::time::Duration;

use axum::{
    Form,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::{
    PATH, Page, PageState, Recognition,
    forgery::{Bare, cookie, cookie_name, is_own, set_cookie},
    html::View,
    oidc::{Login, LoginError, Oidc},
    person::{Person, Unknown},
    response::see_other,
    texts::ENGLISH as TEXTS,
};

const SESSION: &str = "latchkey-session";
const LOGIN: &str = "latchkey-login";
/// How long a login may take, in seconds.
const LOGIN_TIME: i64 = 10 * 60;
/// How often the cookie notes that the session is in use, at most, in seconds.
const NOTE: i64 = 60;
/// How long a form may take, in seconds: a login that was recent when the form was opened is recent enough when it is sent.
const FORM_TIME: i64 = 15 * 60;

/// How long a session lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    /// Without use.
    pub(crate) idle: Duration,
    /// In any case.
    pub(crate) longest: Duration,
}

/// Times are in seconds since the Unix epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) user: String,
    began: i64,
    seen: i64,
    /// When the user gave the provider a credential, if the provider says so.
    auth_time: Option<i64>,
}

impl Session {
    /// Reads the session of a browser, if it has not ended.
    pub(super) fn of(state: &PageState, oidc: &Oidc, headers: &HeaderMap) -> Option<Self> {
        let session: Self = oidc.sealer.open(SESSION, cookie(headers, &cookie_name(state, SESSION))?)?;
        session.lives(&oidc.session, now(state)).then_some(session)
    }

    fn lives(&self, lengths: &Lengths, now: i64) -> bool {
        now - self.seen <= seconds(lengths.idle) && now - self.began <= seconds(lengths.longest)
    }

    /// Notes in the cookie that the session is in use.
    pub(super) fn note_use(&self, state: &PageState, headers: &mut HeaderMap) {
        let now = now(state);
        if let Recognition::Oidc(oidc) = &state.recognition
            && now - self.seen >= NOTE.min(seconds(oidc.session.idle) / 4)
        {
            Self { seen: now, ..self.clone() }.keep(state, oidc, headers);
        }
    }

    fn keep(&self, state: &PageState, oidc: &Oidc, headers: &mut HeaderMap) {
        if let Some(sealed) = oidc.sealer.seal(SESSION, self) {
            set_cookie(state, headers, SESSION, &sealed);
        }
    }
}

/// Returns the provider if a person's login with it is not recent enough to make a token. `sent` is whether the form was filled in
/// already.
pub(super) fn not_recent<'a>(state: &'a PageState, person: &Person, sent: bool) -> Option<&'a Oidc> {
    let (Recognition::Oidc(oidc), Some(session)) = (&state.recognition, &person.session) else { return None };
    let allowed = seconds(oidc.max_age?).saturating_add(if sent { FORM_TIME } else { 0 });
    let now = now(state);
    session.auth_time.is_none_or(|at| now.saturating_sub(at) > allowed).then_some(oidc)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn now(state: &PageState) -> i64 {
    state.registry.clock().now().timestamp()
}

/// Sends the browser to the provider. Afterwards it comes back to `to`, below the page.
pub(super) async fn sign_in(
    state: &PageState,
    oidc: &Oidc,
    headers: &HeaderMap,
    to: &str,
    anew: bool,
) -> Response {
    let unavailable = || Unknown::Unavailable.answer(state, headers);
    let Ok((login, url)) = oidc.begin(to, anew, now(state)).await else { return unavailable() };
    let Some(sealed) = oidc.sealer.seal(LOGIN, &login) else { return unavailable() };
    let mut response = see_other(&url);
    set_cookie(state, response.headers_mut(), LOGIN, &sealed);
    response
}

#[derive(Deserialize)]
pub(super) struct Callback {
    #[serde(default)]
    state: String,
    #[serde(default)]
    code: String,
}

/// Ends a login: the provider has sent the browser back.
pub(super) async fn callback(
    State(Page(state)): State<Page>,
    Query(callback): Query<Callback>,
    headers: HeaderMap,
) -> Response {
    let Recognition::Oidc(oidc) = &state.recognition else {
        return Unknown::Off.answer(&state, &headers);
    };
    let login: Option<Login> =
        cookie(&headers, &cookie_name(&state, LOGIN)).and_then(|text| oidc.sealer.open(LOGIN, text));
    let refused = || Unknown::NotSignedIn.answer(&state, &headers);
    let Some(login) = login.filter(|login| now(&state) - login.began <= LOGIN_TIME) else { return refused() };
    match oidc.end(&login, &callback.state, &callback.code).await {
        Err(LoginError::Unavailable) => Unknown::Unavailable.answer(&state, &headers),
        Err(LoginError::Refused) => refused(),
        Ok(identified) => {
            let now = now(&state);
            let session = Session {
                user: identified.user.as_str().to_owned(),
                began: now,
                seen: now,
                auth_time: identified.auth_time,
            };
            let mut response = see_other(&format!("{PATH}{}", login.to));
            session.keep(&state, oidc, response.headers_mut());
            // A login ends once.
            set_cookie(&state, response.headers_mut(), LOGIN, "");
            response
        }
    }
}

/// Ends the session, here and with the provider.
pub(super) async fn sign_out(
    State(Page(state)): State<Page>,
    headers: HeaderMap,
    Form(sent): Form<Bare>,
) -> Response {
    let Recognition::Oidc(oidc) = &state.recognition else {
        return Unknown::Off.answer(&state, &headers);
    };
    if !is_own(&state, &headers, &sent.key) {
        return View::new(&state, &headers, None).message(StatusCode::FORBIDDEN, TEXTS.forged);
    }
    let mut response = match oidc.end_session().await {
        Some(url) => View::new(&state, &headers, None).signing_out(&url),
        None => see_other(&format!("{PATH}/signed-out")),
    };
    set_cookie(&state, response.headers_mut(), SESSION, "");
    response
}

/// Where the provider sends the browser after a logout.
pub(super) async fn signed_out(State(Page(state)): State<Page>, headers: HeaderMap) -> Response {
    View::new(&state, &headers, None).signed_out()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_when_it_is_not_used_and_at_some_time_in_any_case() {
        let lengths = Lengths { idle: Duration::from_secs(10), longest: Duration::from_secs(100) };
        let lives = |began, seen, now| {
            Session { user: "alice".to_owned(), began, seen, auth_time: None }.lives(&lengths, now)
        };
        assert!(lives(0, 0, 10) && !lives(0, 0, 11));
        assert!(lives(0, 100, 100) && !lives(0, 101, 101));
    }
}
