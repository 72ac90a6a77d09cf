//! `POST /oauth2/introspect`: token introspection (RFC 7662).

use axum::{
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Serialize;
use uuid::Uuid;

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
    OAuth { registry, issuer }: &OAuth,
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let Some(token) = form::token(headers, body) else { return form::invalid_request() };
    let none = Scopes::default();
    match registry.validate(caller, Transport::Introspection, token.as_bytes(), &none).await {
        Ok(Verdict::Valid(token)) => active(&token, issuer.as_ref()),
        Ok(Verdict::Invalid(_)) => form::answer(StatusCode::OK, &Inactive { active: false }),
        Err(_) => form::unavailable(),
    }
}

/// What is known of a good token (RFC 7662, section 2.2).
#[derive(Serialize)]
struct Active<'a> {
    active: bool,
    sub: &'a str,
    scope: &'a str,
    jti: &'a str,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    token_type: &'static str,
}

/// What is said of any other.
#[derive(Serialize)]
struct Inactive {
    active: bool,
}

fn active(token: &Token, issuer: Option<&Issuer>) -> Response {
    let mut id = Uuid::encode_buffer();
    let members = Active {
        active: true,
        sub: token.user_id.as_str(),
        scope: &token.scopes.to_text(),
        jti: token.id.hyphenated().encode_lower(&mut id),
        iat: token.created_at.timestamp(),
        exp: token.expires_at.map(|at| at.timestamp()),
        iss: issuer.map(Issuer::as_str),
        token_type: "Bearer",
    };
    form::answer(StatusCode::OK, &members)
}
