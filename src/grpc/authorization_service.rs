//! `envoy.service.auth.v3.Authorization`: Envoy's external authorization, which Istio, Envoy Gateway and others ask too.

use axum::http::StatusCode;
use prost_types::{Struct, Value, value::Kind};
use tonic::{Code, Request, Response, Status};
use tonic_types::pb;

use super::{status::Violations, token_service::accept};
use crate::{
    gateway::{Credential, Decision, Denial, Gateway, IDENTITY, identity},
    proto::envoy::{
        config::core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
        service::auth::v3::{
            AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
            attribute_context::HttpRequest, authorization_server::Authorization,
            check_response::HttpResponse,
        },
        r#type::v3::{HttpStatus, StatusCode as EnvoyStatus},
    },
    registry::Transport,
    token::{Scopes, Token},
};

/// Answers the checks of gateways.
#[derive(Clone, Debug)]
pub(super) struct AuthorizationHandler {
    pub(super) gateway: Gateway,
    /// Whether the credential is removed from requests that are let through.
    pub(super) removes_credential: bool,
}

/// The key of the context extensions, which a gateway's configuration sets for each route, with the scopes that a token must
/// have.
const SCOPES: &str = "scopes";

#[tonic::async_trait]
impl Authorization for AuthorizationHandler {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (caller, CheckRequest { attributes }) = accept(request)?;
        let AttributeContext { request, context_extensions } = attributes.unwrap_or_default();
        let mut violations = Violations::default();
        let Some(required) =
            violations.check("context_extensions.scopes", scopes(context_extensions.get(SCOPES)))
        else {
            return Err(violations.into_status());
        };
        let http = request.and_then(|request| request.http).unwrap_or_default();
        let credential = self.credential(&http);
        Ok(Response::new(
            match self.gateway.decide(&caller, Transport::ExtAuthz, credential, required).await? {
                Decision::Allow(token) => self.allow(&token),
                Decision::Deny(denial) => deny(&denial),
            },
        ))
    }
}

fn scopes(text: Option<&String>) -> Result<Scopes, crate::token::ScopesError> {
    let texts: Vec<_> =
        text.into_iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
    Scopes::parse(&texts)
}

impl AuthorizationHandler {
    fn credential<'a>(&self, http: &'a HttpRequest) -> Credential<'a> {
        let api_key = self.gateway.api_key_header.as_ref();
        Credential::find(
            values(http, "authorization"),
            api_key.into_iter().flat_map(|name| values(http, name.as_str())),
        )
    }

    fn allow(&self, token: &Token) -> CheckResponse {
        let identity = identity(token);
        let facts = IDENTITY_FACTS
            .into_iter()
            .zip(&identity)
            .map(|(name, value)| (name.to_owned(), Value { kind: Some(Kind::StringValue(value.clone())) }));
        let dynamic_metadata = Some(Struct { fields: facts.collect() });
        let mut headers_to_remove: Vec<_> = OTHER_SPELLINGS.map(str::to_owned).into();
        if self.removes_credential {
            headers_to_remove.push("authorization".to_owned());
            headers_to_remove
                .extend(self.gateway.api_key_header.as_ref().map(|name| name.as_str().to_owned()));
        }
        let headers = IDENTITY.into_iter().zip(identity).map(|(name, value)| header(name, value)).collect();
        let ok = OkHttpResponse { headers, headers_to_remove };
        CheckResponse {
            status: Some(pb::Status { code: Code::Ok.into(), ..Default::default() }),
            http_response: Some(HttpResponse::OkResponse(ok)),
            dynamic_metadata,
        }
    }
}

/// The names of the identity in the dynamic metadata, for access logs.
const IDENTITY_FACTS: [&str; 3] = ["user_id", "token_id", "scopes"];

/// The identity headers with underscores. Envoy does not take them for the same, and some applications do.
const OTHER_SPELLINGS: [&str; 17] = [
    "x_latchkey_user_id",
    "x_latchkey_user-id",
    "x_latchkey-user_id",
    "x_latchkey-user-id",
    "x-latchkey_user_id",
    "x-latchkey_user-id",
    "x-latchkey-user_id",
    "x_latchkey_token_id",
    "x_latchkey_token-id",
    "x_latchkey-token_id",
    "x_latchkey-token-id",
    "x-latchkey_token_id",
    "x-latchkey_token-id",
    "x-latchkey-token_id",
    "x_latchkey_scopes",
    "x_latchkey-scopes",
    "x-latchkey_scopes",
];

fn deny(denial: &Denial) -> CheckResponse {
    let (code, status) = if denial.status() == StatusCode::FORBIDDEN {
        (Code::PermissionDenied, EnvoyStatus::Forbidden)
    } else {
        (Code::Unauthenticated, EnvoyStatus::Unauthorized)
    };
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: status.into() }),
        headers: vec![header("www-authenticate", denial.challenge())],
    };
    CheckResponse {
        status: Some(pb::Status { code: code.into(), ..Default::default() }),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        dynamic_metadata: None,
    }
}

/// Returns a header that replaces those of the same name. Envoy's releases heed either field for that.
#[expect(deprecated, reason = "releases of Envoy ignore append_action on requests")]
fn header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, raw_value: Vec::new() }),
        append: Some(false),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        keep_empty_value: true,
    }
}

/// Returns the values of a header of the client's request. They are in one of the two fields.
fn values<'a, 'b>(http: &'a HttpRequest, name: &'b str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'b> {
    let joined = http.headers.get(name).map(|value| value.as_bytes());
    let single = http.header_map.iter().flat_map(|map| &map.headers);
    let single = single.filter(move |header| header.key.eq_ignore_ascii_case(name)).map(|header| {
        if header.raw_value.is_empty() { header.value.as_bytes() } else { header.raw_value.as_slice() }
    });
    joined.into_iter().chain(single)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_spelling_of_an_identity_header_is_removed_or_set() {
        let mut spellings = BTreeSet::new();
        for name in IDENTITY {
            let dashes: Vec<_> = name.match_indices('-').map(|(index, _)| index).collect();
            for choice in 0..1 << dashes.len() {
                let mut spelling = name.to_owned();
                for (bit, &index) in dashes.iter().enumerate() {
                    if choice & (1 << bit) != 0 {
                        spelling.replace_range(index..=index, "_");
                    }
                }
                spellings.insert(spelling);
            }
        }
        let handled: BTreeSet<_> = IDENTITY.into_iter().chain(OTHER_SPELLINGS).map(str::to_owned).collect();
        assert_eq!(handled, spellings);
    }
}
