//! The form of a request, and the answer to it.

use axum::{
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

/// Returns the token in a form; `None` if it is no form, lacks the token, or repeats a parameter (RFC 6749, section 3.2).
pub(super) fn token(headers: &HeaderMap, body: &[u8]) -> Option<Zeroizing<String>> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?;
    if !kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return None;
    }
    let mut names = Vec::new();
    let mut token = None;
    for (name, value) in form_urlencoded::parse(body) {
        if names.contains(&name) {
            return None;
        }
        if name == "token" {
            token = Some(Zeroizing::new(value.into_owned()));
        }
        names.push(name);
    }
    token
}

/// Answers a request without exactly one token.
pub(super) fn invalid_request() -> Response {
    let description =
        "send one token in a form: application/x-www-form-urlencoded, without repeated parameters";
    answer(StatusCode::BAD_REQUEST, &json!({ "error": "invalid_request", "error_description": description }))
}

/// Answers a request that may succeed later.
pub(super) fn unavailable() -> Response {
    answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": "temporarily_unavailable" }))
}

/// Returns an answer that must not be cached.
pub(super) fn answer(status: StatusCode, members: &impl Serialize) -> Response {
    // Fails only for maps whose keys are no strings.
    let json = serde_json::to_vec(members).unwrap_or_default();
    let mut response = (status, json).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, const { HeaderValue::from_static("application/json") });
    headers.insert(CACHE_CONTROL, const { HeaderValue::from_static("no-store") });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &'static str, form: &str) -> Option<String> {
        let headers = [(CONTENT_TYPE, HeaderValue::from_static(kind))].into_iter().collect();
        token(&headers, form.as_bytes()).map(|token| token.to_string())
    }

    #[test]
    fn exactly_one_token_is_taken_from_a_form() {
        const FORM: &str = "application/x-www-form-urlencoded";
        assert_eq!(of(FORM, "token=a%2Bb+c&token_type_hint=access_token").as_deref(), Some("a+b c"));
        assert_eq!(of("Application/X-WWW-Form-Urlencoded; charset=utf-8", "token=a").as_deref(), Some("a"));
        for form in ["", "tokens=a", "token=a&token=a", "token=a&x=1&x=2"] {
            assert_eq!(of(FORM, form), None, "{form}");
        }
        assert_eq!(of("application/json", "token=a"), None);
    }
}
