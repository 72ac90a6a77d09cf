//! Requests that other sites have a browser send (CSRF): they are recognised by what the browser says of their origin, and by a
//! value that only this page's forms have.

use axum::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, HOST, ORIGIN, SET_COOKIE},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRng as _, rngs::SysRng};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::{PageState, Recognition};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The prefix has browsers refuse the cookie from elsewhere: other hosts of the domain, and connections without TLS.
const HOST_PREFIX: &str = "__Host-";
const NAME: &str = "latchkey-form";
const BYTES: usize = 32;

/// A form with nothing but what [`View::key_fields`](super::html::View::key_fields) adds.
#[derive(Deserialize)]
pub(super) struct Bare {
    #[serde(default)]
    pub(super) key: String,
    #[serde(default)]
    pub(super) shown_to: String,
}

/// The value in the cookie and in the forms of a browser.
pub(super) struct FormKey {
    pub(super) text: String,
    is_new: bool,
}

impl FormKey {
    /// Reads the key of a browser, or makes one. `None`: the operating system gave no randomness.
    pub(super) fn of(state: &PageState, headers: &HeaderMap) -> Option<Self> {
        if let Some(text) = cookie(headers, &cookie_name(state, NAME)).filter(|text| is_key(text)) {
            return Some(Self { text: text.to_owned(), is_new: false });
        }
        Some(Self { text: random()?, is_new: true })
    }

    /// Has the browser keep a new key.
    pub(super) fn keep(&self, state: &PageState, headers: &mut HeaderMap) {
        if self.is_new {
            set_cookie(state, headers, NAME, &self.text);
        }
    }
}

/// Whether a form was sent from this page.
pub(super) fn is_own(state: &PageState, headers: &HeaderMap, sent: &str) -> bool {
    is_same_origin(headers) && has_key(state, headers, sent)
}

/// Whether a form has the key of the browser.
pub(super) fn has_key(state: &PageState, headers: &HeaderMap, sent: &str) -> bool {
    let kept = cookie(headers, &cookie_name(state, NAME)).unwrap_or_default();
    is_key(kept) && bool::from(kept.as_bytes().ct_eq(sent.as_bytes()))
}

fn is_key(text: &str) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == BYTES)
}

/// Whether the request is of the same origin, by `Sec-Fetch-Site` or, in older browsers, `Origin`; also if neither is present.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site == "same-origin";
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let (origin, host) = (origin.to_str().ok(), headers.get(HOST).and_then(|host| host.to_str().ok()));
    let of_origin = origin.and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    of_origin.is_some() && of_origin == host
}

/// Returns 32 random bytes in base64url.
pub(super) fn random() -> Option<String> {
    let mut bytes = [0; BYTES];
    SysRng.try_fill_bytes(&mut bytes).ok()?;
    Some(URL_SAFE_NO_PAD.encode(bytes))
}

/// Without TLS, as in development, browsers refuse the prefix.
pub(super) fn cookie_name(state: &PageState, name: &str) -> String {
    if matches!(state.recognition, Recognition::Development) {
        name.to_owned()
    } else {
        format!("{HOST_PREFIX}{name}")
    }
}

/// Returns the only cookie of this name.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value);
    values.next().filter(|_| values.next().is_none())
}

/// Sets a cookie that ends with the browser's session.
pub(super) fn set_cookie(state: &PageState, headers: &mut HeaderMap, name: &str, value: &str) {
    let attributes = match (&state.recognition, state.look.frame_ancestors.any()) {
        (Recognition::Development, _) => "HttpOnly; SameSite=Strict",
        (_, false) => "HttpOnly; Secure; SameSite=Lax",
        // In a frame of another site.
        (_, true) => "HttpOnly; Secure; SameSite=None; Partitioned",
    };
    let cookie = format!("{}={value}; Path=/; {attributes}", cookie_name(state, name));
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.append(SET_COOKIE, cookie);
    }
}
