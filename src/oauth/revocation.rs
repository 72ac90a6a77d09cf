//! `POST /oauth2/revoke`: token revocation (RFC 7009).

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse as _, Response},
};

use super::{OAuth, form};

/// Revokes the token in the form. Anyone who holds a token may revoke it, so the token is the only credential.
///
/// 200: no replica accepts it any more, or there is no such token. 400: the form has not exactly one `token`. 503: it may
/// still be valid.
pub(crate) async fn revoke(
    State(OAuth { registry, .. }): State<OAuth>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(token) = form::token(&headers, &body) else { return form::invalid_request() };
    match registry.revoke_presented(token.as_bytes()).await {
        Ok(()) => {
            let no_store = HeaderValue::from_static("no-store");
            (StatusCode::OK, [(CACHE_CONTROL, no_store)]).into_response()
        }
        Err(_) => form::unavailable(),
    }
}
