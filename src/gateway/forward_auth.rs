//! `/verify`, for gateways that ask over HTTP: nginx `auth_request`, Traefik ForwardAuth, Caddy `forward_auth`, and others.
//!
//! They send the head of the client's request, with any method and any path behind `/verify`, and let the request through if
//! the answer is 200. They hand on the identity headers of that answer. These are always in it, so that a client's own
//! headers of the same names are overwritten.
//!
//! Since `Authorization` is the client's, a gateway sends its own credential as `X-Latchkey-Authorization`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
        header::{CACHE_CONTROL, WWW_AUTHENTICATE},
    },
    response::{IntoResponse as _, Response},
};
use percent_encoding::percent_decode_str;

use super::bearer::{Bearer, bearer};
use crate::{
    caller::Caller,
    registry::{Reason, TokenRegistry, Verdict},
    token::{Scopes, Token},
};

/// The user to act as, the token's id, and its scopes, separated by spaces.
const IDENTITY: [HeaderName; 3] = [
    HeaderName::from_static("x-latchkey-user-id"),
    HeaderName::from_static("x-latchkey-token-id"),
    HeaderName::from_static("x-latchkey-scopes"),
];

/// What answers gateways.
#[derive(Clone, Debug)]
pub(crate) struct Gateway(pub(crate) Arc<TokenRegistry>);

/// Answers whether the bearer token of a request is good for the scopes in the query (`?scope=a&scope=b`).
///
/// 200: it is. 401: there is none, or it is not valid. 403: it lacks a scope. 400: the query has what is no scope. 503: it
/// cannot be known. Only 200 lets a request through.
pub(crate) async fn verify(
    State(Gateway(registry)): State<Gateway>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Ok(required) = Scopes::parse(&scopes(uri.query().unwrap_or_default())) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let token = match bearer(&headers) {
        Bearer::None => return challenge(StatusCode::UNAUTHORIZED, "Bearer"),
        Bearer::Unusable => return challenge(StatusCode::UNAUTHORIZED, INVALID),
        Bearer::One(token) => token,
    };
    match registry.validate(&caller, token, &required).await {
        Ok(Verdict::Valid(token)) => allow(&token),
        Ok(Verdict::Invalid(Reason::MissingScope)) => {
            let scope = required.iter().collect::<Vec<_>>().join(" ");
            challenge(
                StatusCode::FORBIDDEN,
                &format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\""),
            )
        }
        Ok(Verdict::Invalid(_)) => challenge(StatusCode::UNAUTHORIZED, INVALID),
        Err(_) => with(StatusCode::SERVICE_UNAVAILABLE, ["", "", ""]),
    }
}

/// The challenge for a token that is not valid (RFC 6750, section 3).
const INVALID: &str = "Bearer error=\"invalid_token\"";

/// Returns the values of `scope` in a query, each of which may have several scopes.
fn scopes(query: &str) -> Vec<String> {
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let decoded = values.map(|value| value.replace('+', " ")).map(|value| {
        percent_decode_str(&value)
            .decode_utf8_lossy()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    decoded.flatten().collect()
}

fn allow(token: &Token) -> Response {
    let scopes = token.scopes.iter().collect::<Vec<_>>().join(" ");
    with(StatusCode::OK, [token.user_id.as_str(), &token.id.hyphenated().to_string(), &scopes])
}

fn challenge(status: StatusCode, text: &str) -> Response {
    let mut response = with(status, ["", "", ""]);
    // Scopes have no characters that a header may not have.
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// Returns an answer with identity headers, which are empty unless the token is valid.
fn with(status: StatusCode, identity: [&str; 3]) -> Response {
    let mut response = status.into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, const { HeaderValue::from_static("no-store") });
    for (name, value) in IDENTITY.into_iter().zip(identity) {
        // A user id has no control characters; other bytes of UTF-8 are allowed (RFC 9110, obs-text).
        let value =
            HeaderValue::from_bytes(value.as_bytes()).unwrap_or(const { HeaderValue::from_static("") });
        headers.insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_taken_from_the_query_in_every_usual_form() {
        for query in ["scope=a&scope=b", "scope=a+b", "scope=a%20b", "x=1&scope=a&scopes=c&scope=b"] {
            assert_eq!(scopes(query), ["a", "b"], "{query}");
        }
        for query in ["", "scope=", "Scope=a", "scopes=a"] {
            assert!(scopes(query).is_empty(), "{query}");
        }
    }
}
