//! `POST /oauth2/introspect`: token introspection (RFC 7662).

use axum::{
    Extension,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde_json::{Value, json};

use super::{Issuer, OAuth, form};
use crate::{
    caller::Caller,
    registry::{Transport, Verdict},
    token::{Scopes, Token},
};

/// Answers whether the token in the form is good.
///
/// 200 with `"active": true` and what is known of the token, or with exactly `{"active":false}`, whatever is wrong with it. 400:
/// the form has not exactly one `token`. 503: it cannot be known; that is never `"active": false`.
pub(crate) async fn introspect(
    State(OAuth { registry, issuer }): State<OAuth>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(token) = form::token(&headers, &body) else { return form::invalid_request() };
    let none = Scopes::default();
    match registry.validate(&caller, Transport::Introspection, token.as_bytes(), &none).await {
        Ok(Verdict::Valid(token)) => form::answer(StatusCode::OK, &active(&token, issuer.as_ref())),
        Ok(Verdict::Invalid(_)) => form::answer(StatusCode::OK, &json!({ "active": false })),
        Err(_) => form::unavailable(),
    }
}

/// Returns what is known of a good token (RFC 7662, section 2.2).
fn active(token: &Token, issuer: Option<&Issuer>) -> Value {
    let mut members = json!({
        "active": true,
        "sub": token.user_id.as_str(),
        "scope": token.scopes.to_text(),
        "jti": token.id.hyphenated().to_string(),
        "iat": token.created_at.timestamp(),
        "token_type": "Bearer",
    });
    if let Some(expires_at) = token.expires_at {
        members["exp"] = expires_at.timestamp().into();
    }
    if let Some(issuer) = issuer {
        members["iss"] = issuer.as_str().into();
    }
    members
}
