//! `/verify`, for gateways that ask over HTTP: nginx `auth_request`, Traefik ForwardAuth, Caddy `forward_auth`, and others.
//!
//! They send the head of the client's request, with any method and any path behind `/verify`, and let the request through if
//! the answer is 200. They hand on the identity headers of that answer. These are always in it, so that a client's own
//! headers of the same names are overwritten.
//!
//! Since `Authorization` is the client's, a gateway sends its own credential as `X-Latchkey-Authorization`.

use axum::{
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, WWW_AUTHENTICATE},
        request::Parts,
    },
    response::{IntoResponse as _, Response},
};
use percent_encoding::percent_decode_str;

use super::{Credential, Decision, Denial, Gateway, IDENTITY, identity};
use crate::{caller::Caller, registry::Transport, token::Scopes};

/// Answers whether the bearer token of a request is good for the scopes in the query (`?scope=a&scope=b`).
///
/// 200: it is. 401: there is none, or it is not valid. 403: it lacks a scope. 400: the query has what is no scope. 503: it
/// cannot be known. Only 200 lets a request through.
pub(crate) async fn verify(gateway: &Gateway, caller: &Caller, request: &Parts) -> Response {
    let Ok(required) = Scopes::parse(&scopes(request.uri.query().unwrap_or_default())) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let credential = Credential::of(&request.headers, gateway.api_key_header.as_ref());
    match gateway.decide(caller, Transport::Verify, credential, required).await {
        Ok(Decision::Allow(token)) => answer(StatusCode::OK, &identity(&token)),
        Ok(Decision::Deny(denial)) => deny(&denial),
        Err(_) => answer(StatusCode::SERVICE_UNAVAILABLE, &NOBODY),
    }
}

const NAMES: [HeaderName; 3] = [
    HeaderName::from_static(IDENTITY[0]),
    HeaderName::from_static(IDENTITY[1]),
    HeaderName::from_static(IDENTITY[2]),
];

/// The identity in answers that let nothing through.
const NOBODY: [String; 3] = [const { String::new() }; 3];

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

fn deny(denial: &Denial) -> Response {
    let mut response = answer(denial.status(), &NOBODY);
    // Scopes have no characters that a header may not have.
    if let Ok(value) = HeaderValue::from_str(&denial.challenge()) {
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

fn answer(status: StatusCode, identity: &[String; 3]) -> Response {
    let mut response = status.into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, const { HeaderValue::from_static("no-store") });
    for (name, value) in NAMES.into_iter().zip(identity) {
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
