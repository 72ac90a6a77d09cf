//! Answers of the page: redirects, and HTML with headers that keep it private.

use axum::{
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    response::{Html, IntoResponse as _, Response},
};
use maud::Markup;

use super::{PageState, html::Nonce};

/// Sends the browser elsewhere.
pub(super) fn see_other(url: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, url)]).into_response()
}

/// Returns a page. Only styles and scripts with this nonce run, and nothing comes from elsewhere.
pub(super) fn html(status: StatusCode, state: &PageState, nonce: &Nonce, page: Markup) -> Response {
    let mut response = (status, Html(page.into_string())).into_response();
    let headers = response.headers_mut();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src 'self' data:; \
         form-action 'self'; base-uri 'none'; frame-ancestors {}",
        state.look.frame_ancestors
    );
    // A nonce is base64, and the origins were checked, so this is a header.
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(CACHE_CONTROL, const { HeaderValue::from_static("no-store") });
    // Not no-referrer, with which browsers send `Origin: null`.
    headers.insert(REFERRER_POLICY, const { HeaderValue::from_static("same-origin") });
    headers.insert(X_CONTENT_TYPE_OPTIONS, const { HeaderValue::from_static("nosniff") });
    const OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
    headers.insert(OPENER, const { HeaderValue::from_static("same-origin") });
    response
}
