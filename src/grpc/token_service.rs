//! `latchkey.v1.TokenService`: converts between protobuf messages and the registry's types.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use secrecy::ExposeSecret as _;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{page_token, status::Violations, unsent_bytes::UnsentTotal};
use crate::{
    caller::Caller,
    proto::latchkey::{self as pb, token_service_server::TokenService, validate_token_response::Outcome},
    registry::{Issued, NewToken, OnRepeat, Reason, TokenRegistry, Transport, Verdict},
    token::{
        Expiry, PageSize, Prefix, RequestId, Scopes, ScopesError, Token, TokenName, UserId, UserIdError,
        parse_hyphenated,
    },
};

/// Answers the calls of the token service from a registry.
#[derive(Clone, Debug)]
pub(super) struct TokenHandler {
    pub(super) registry: Arc<TokenRegistry>,
    pub(super) unsent: UnsentTotal,
}

#[tonic::async_trait]
impl TokenService for TokenHandler {
    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let (caller, request) = accept(request)?;
        let mut violations = Violations::default();
        let user_id = violations.check("user_id", user(&caller, &request.user_id));
        let name = violations.check("name", TokenName::parse(&request.name));
        let scopes = check_scopes(&mut violations, "scopes", &request.scopes);
        let request_id = RequestId::parse_optional(&request.request_id);
        let after = self.registry.earliest_expiry(request_id.ok().flatten());
        let expiry = request.expire_time.map(|at| Expiry::parse(at.seconds, at.nanos, after)).transpose();
        let expiry = violations.check("expire_time", expiry);
        let request_id = violations.check("request_id", request_id);
        let (Some(user_id), Some(name), Some(scopes), Some(expiry), Some(request_id)) =
            (user_id, name, scopes, expiry, request_id)
        else {
            return Err(violations.into_status());
        };

        let on_repeat = OnRepeat::ReplaceSecret;
        let new = NewToken { user_id, name, scopes, expiry, request_id, on_repeat };
        let Issued { token, secret } = self.registry.issue(&caller, new).await?;
        Ok(Response::new(pb::CreateTokenResponse {
            token: Some(to_proto(&token, self.registry.prefix())),
            secret: secret.expose_secret().to_owned(),
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        let (caller, request) = accept(request)?;
        let mut violations = Violations::default();
        let user = violations.check("user_id", user(&caller, &request.user_id));
        let size = violations.check("page_size", PageSize::parse(request.page_size));
        let before = match &user {
            Some(user) if !request.page_token.is_empty() => {
                let cursor = page_token::decode(user, &request.page_token);
                violations.check("page_token", cursor.map(Some).ok_or(page_token::BAD))
            }
            _ => Some(None),
        };
        let (Some(user), Some(size), Some(before)) = (user, size, before) else {
            return Err(violations.into_status());
        };

        let page = self.registry.list(&caller, &user, before, size).await?;
        let prefix = self.registry.prefix();
        self.unsent.answer(pb::ListTokensResponse {
            tokens: page.tokens.iter().map(|token| to_proto(token, prefix)).collect(),
            next_page_token: page.next.map(|id| page_token::encode(&user, id)).unwrap_or_default(),
        })
    }

    async fn delete_token(
        &self,
        request: Request<pb::DeleteTokenRequest>,
    ) -> Result<Response<pb::DeleteTokenResponse>, Status> {
        let (caller, request) = accept(request)?;
        let mut violations = Violations::default();
        let user = violations.check("user_id", user(&caller, &request.user_id));
        let id = violations.check("token_id", token_id(&request.token_id));
        let (Some(user), Some(id)) = (user, id) else {
            return Err(violations.into_status());
        };

        self.registry.revoke(&caller, &user, id, request.allow_missing).await?;
        Ok(Response::new(pb::DeleteTokenResponse {}))
    }

    async fn validate_token(
        &self,
        request: Request<pb::ValidateTokenRequest>,
    ) -> Result<Response<pb::ValidateTokenResponse>, Status> {
        let (caller, request) = accept(request)?;
        let bearer = Zeroizing::new(request.secret);
        let mut violations = Violations::default();
        let required = check_scopes(&mut violations, "required_scopes", &request.required_scopes);
        let Some(required) = required else {
            return Err(violations.into_status());
        };

        let outcome = match self.registry.validate(&caller, Transport::Grpc, &bearer, &required).await? {
            Verdict::Valid(token) => Outcome::Valid(to_proto(&token, self.registry.prefix())),
            Verdict::Invalid(reason) => {
                Outcome::Invalid(pb::Invalid { reason: reason_to_proto(reason).into() })
            }
        };
        Ok(Response::new(pb::ValidateTokenResponse { outcome: Some(outcome) }))
    }
}

/// Returns the caller of a request, and its message.
///
/// # Errors
///
/// INTERNAL: the request was not admitted by `layers::Admit`.
pub(super) fn accept<T>(mut request: Request<T>) -> Result<(Caller, T), Status> {
    let caller = request.extensions_mut().remove();
    let caller = caller.ok_or_else(|| Status::internal("the call was not admitted"))?;
    Ok((caller, request.into_inner()))
}

/// Parses a user id. An empty one means the caller, if that is a user.
fn user(caller: &Caller, text: &str) -> Result<UserId, UserIdError> {
    match caller.own_user() {
        Some(own) if text.is_empty() => Ok(own.clone()),
        _ => text.parse(),
    }
}

/// Parses scopes; each one that is wrong is reported as a violation of its own.
fn check_scopes(violations: &mut Violations, field: &str, texts: &[String]) -> Option<Scopes> {
    match Scopes::parse(texts) {
        Err(ScopesError::Items(errors)) => {
            for (index, error) in errors {
                violations.check::<(), _>(&format!("{field}[{index}]"), Err(error));
            }
            None
        }
        parsed => violations.check(field, parsed),
    }
}

fn token_id(text: &str) -> Result<Uuid, &'static str> {
    parse_hyphenated(text).ok_or("must be a token's id: a UUID such as 0193e4a0-0000-7000-8000-000000000000")
}

fn to_proto(token: &Token, prefix: &Prefix) -> pb::Token {
    pb::Token {
        id: token.id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned(),
        hint: token.hint(prefix),
        user_id: token.user_id.as_str().to_owned(),
        name: token.name.as_str().to_owned(),
        scopes: token.scopes.iter().map(str::to_owned).collect(),
        create_time: Some(timestamp(token.created_at)),
        expire_time: token.expires_at.map(timestamp),
        last_used_time: token.last_used_at.map(timestamp),
    }
}

pub(super) fn timestamp(at: DateTime<Utc>) -> Timestamp {
    // Below 2,000,000,000 even in a leap second.
    Timestamp { seconds: at.timestamp(), nanos: at.timestamp_subsec_nanos() as i32 }
}

fn reason_to_proto(reason: Reason) -> pb::invalid::Reason {
    match reason {
        Reason::Malformed => pb::invalid::Reason::Malformed,
        Reason::Unknown => pb::invalid::Reason::Unknown,
        Reason::Revoked => pb::invalid::Reason::Revoked,
        Reason::Expired => pb::invalid::Reason::Expired,
        Reason::UserDeleted => pb::invalid::Reason::UserDeleted,
        Reason::MissingScope => pb::invalid::Reason::MissingScope,
    }
}
