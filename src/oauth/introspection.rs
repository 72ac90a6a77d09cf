//! `POST /oauth2/introspect`: token introspection (RFC 7662).

use axum::{
    Extension,
    body::Bytes,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    caller::Caller,
    gateway::Gateway,
    registry::Verdict,
    token::{Scopes, Token},
};

/// Answers whether the token in the form is good.
///
/// 200 with `"active": true` and what is known of the token, or with exactly `{"active":false}`, whatever is wrong with it. 400:
/// the form has not exactly one `token`. 503: it cannot be known; that is never `"active": false`.
pub(crate) async fn introspect(
    State(Gateway(registry)): State<Gateway>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(token) = token(&headers, &body) else {
        let description =
            "send one token in a form: application/x-www-form-urlencoded, without repeated parameters";
        return answer(
            StatusCode::BAD_REQUEST,
            &json!({ "error": "invalid_request", "error_description": description }),
        );
    };
    match registry.validate(&caller, token.as_bytes(), &Scopes::default()).await {
        Ok(Verdict::Valid(token)) => answer(StatusCode::OK, &active(&token)),
        Ok(Verdict::Invalid(_)) => answer(StatusCode::OK, &json!({ "active": false })),
        Err(_) => answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": "temporarily_unavailable" })),
    }
}

/// Returns the token in a form; `None` if it is no form, lacks the token, or repeats a parameter (RFC 6749, section 3.2).
fn token(headers: &HeaderMap, body: &[u8]) -> Option<Zeroizing<String>> {
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

/// Returns what is known of a good token (RFC 7662, section 2.2).
fn active(token: &Token) -> Value {
    let mut members = json!({
        "active": true,
        "sub": token.user_id.as_str(),
        "scope": token.scopes.iter().collect::<Vec<_>>().join(" "),
        "jti": token.id.hyphenated().to_string(),
        "iat": token.created_at.timestamp(),
        "token_type": "Bearer",
    });
    if let Some(expires_at) = token.expires_at {
        members["exp"] = expires_at.timestamp().into();
    }
    members
}

fn answer(status: StatusCode, members: &Value) -> Response {
    let mut response = (status, members.to_string()).into_response();
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
