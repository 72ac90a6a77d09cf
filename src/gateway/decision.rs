//! What a gateway is to do with a request: the same for every protocol by which it asks.

use std::sync::Arc;

use axum::http::{HeaderName, StatusCode};

use super::Credential;
use crate::{
    caller::Caller,
    registry::{Reason, RegistryError, TokenRegistry, Transport, Verdict},
    token::{Scopes, Token},
};

/// The headers with which an API learns whom to act as: the user's id, the token's id, and the token's scopes, separated by
/// spaces. They are in every answer that lets a request through, so that a client's own headers of the same names are
/// overwritten.
pub(crate) const IDENTITY: [&str; 3] = ["x-latchkey-user-id", "x-latchkey-token-id", "x-latchkey-scopes"];

/// What answers gateways.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) registry: Arc<TokenRegistry>,
    /// The header that may have a token in place of Authorization.
    pub(crate) api_key_header: Option<HeaderName>,
}

/// What is to be done with a request.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Let it through.
    Allow(Arc<Token>),
    /// Refuse it.
    Deny(Denial),
}

/// Why a request is refused.
#[derive(Debug)]
pub(crate) enum Denial {
    /// It has no credential.
    NoCredential,
    /// Its credential is not valid.
    InvalidToken,
    /// Its token lacks one of these scopes.
    InsufficientScope(Scopes),
}

impl Gateway {
    /// Decides about a request with this credential, which needs these scopes.
    ///
    /// # Errors
    ///
    /// It cannot be known: a failure.
    pub(crate) async fn decide(
        &self,
        caller: &Caller,
        transport: Transport,
        credential: Credential<'_>,
        required: Scopes,
    ) -> Result<Decision, RegistryError> {
        let token = match credential {
            Credential::None => return Ok(Decision::Deny(Denial::NoCredential)),
            Credential::Unusable => return Ok(Decision::Deny(Denial::InvalidToken)),
            Credential::One(token) => token,
        };
        Ok(match self.registry.validate(caller, transport, token, &required).await? {
            Verdict::Valid(token) => Decision::Allow(token),
            Verdict::Invalid(Reason::MissingScope) => Decision::Deny(Denial::InsufficientScope(required)),
            Verdict::Invalid(_) => Decision::Deny(Denial::InvalidToken),
        })
    }
}

impl Denial {
    /// Returns the status of the answer to the client.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NoCredential | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope(_) => StatusCode::FORBIDDEN,
        }
    }

    /// Returns the value of WWW-Authenticate (RFC 6750, section 3).
    pub(crate) fn challenge(&self) -> String {
        match self {
            Self::NoCredential => "Bearer".to_owned(),
            Self::InvalidToken => "Bearer error=\"invalid_token\"".to_owned(),
            Self::InsufficientScope(scopes) => {
                format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", scopes.to_text())
            }
        }
    }
}

/// Returns the values of the identity headers for a token.
pub(crate) fn identity(token: &Token) -> [String; 3] {
    [token.user_id.as_str().to_owned(), token.id.hyphenated().to_string(), token.scopes.to_text()]
}
