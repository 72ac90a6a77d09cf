//! `POST /kubernetes/token-review`: the webhook of Kubernetes' API server, and of whatever speaks its protocol
//! (authentication.k8s.io/v1, "Webhook Token Authentication").

use axum::{
    Extension,
    body::Bytes,
    extract::State,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    caller::Caller,
    gateway::Gateway,
    registry::{Transport, Verdict},
    token::{Scopes, Token},
};

const API_VERSION: &str = "authentication.k8s.io/v1";
const KIND: &str = "TokenReview";

/// A question. It and the answer are the same kind of object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenReview {
    api_version: String,
    kind: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    token: Zeroizing<String>,
    #[serde(default)]
    audiences: Vec<String>,
}

/// Answers who the token of a review stands for.
///
/// 200 with `authenticated`. 400: the body is no TokenReview of version v1. 503: it cannot be known.
pub(crate) async fn review(
    State(Gateway { registry, .. }): State<Gateway>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let spec = match serde_json::from_slice(&body) {
        Ok(TokenReview { api_version, kind, spec }) if api_version == API_VERSION && kind == KIND => spec,
        // The error of the parser may quote the body, which has a token.
        _ => {
            return (StatusCode::BAD_REQUEST, "the body is not a TokenReview of authentication.k8s.io/v1\n")
                .into_response();
        }
    };
    let none = Scopes::default();
    let status = match registry.validate(&caller, Transport::TokenReview, spec.token.as_bytes(), &none).await
    {
        Ok(Verdict::Valid(token)) => authenticated(&token, &spec.audiences),
        Ok(Verdict::Invalid(_)) => json!({ "authenticated": false }),
        Err(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    let review = json!({ "apiVersion": API_VERSION, "kind": KIND, "status": status });
    let json = const { HeaderValue::from_static("application/json") };
    ([(CONTENT_TYPE, json)], review.to_string()).into_response()
}

/// A personal API token acts as its user for whichever service asks, so it is good for each of the audiences.
fn authenticated(token: &Token, audiences: &[String]) -> Value {
    json!({
        "authenticated": true,
        "user": {
            "username": token.user_id.as_str(),
            "uid": token.user_id.as_str(),
            "extra": {
                "latchkey/token-id": [token.id.hyphenated().to_string()],
                "latchkey/scopes": token.scopes.iter().collect::<Vec<_>>(),
            },
        },
        "audiences": audiences,
    })
}
