//! `GET /.well-known/oauth-authorization-server`: authorization server metadata (RFC 8414).

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use serde_json::json;

use super::{OAuth, form};

/// Where clients look for the metadata. The path of the issuer follows (RFC 8414, section 3).
const WELL_KNOWN: &str = "/.well-known/oauth-authorization-server";

/// Answers where the endpoints of OAuth are. 404: no issuer is configured, or another one is asked for.
pub(crate) async fn metadata(State(OAuth { issuer, .. }): State<OAuth>, uri: Uri) -> Response {
    let asked = uri.path().strip_prefix(WELL_KNOWN).map(|path| path.trim_end_matches('/'));
    let Some(issuer) = issuer.filter(|issuer| asked == Some(issuer.path())) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let members = json!({
        "issuer": issuer.as_str(),
        // Required, and must not be empty (RFC 8414, sections 2 and 3.2), although nothing is authorized here: `none` is the
        // registered type of a response that has neither a code nor a token.
        "response_types_supported": ["none"],
        "introspection_endpoint": issuer.endpoint("/oauth2/introspect"),
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "tls_client_auth", "Bearer"],
        "revocation_endpoint": issuer.endpoint("/oauth2/revoke"),
        "revocation_endpoint_auth_methods_supported": ["none"],
    });
    form::answer(StatusCode::OK, &members)
}
