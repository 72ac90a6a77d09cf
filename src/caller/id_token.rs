//! The ID tokens of an OpenID provider, by which the web page recognises its users.

use std::{fmt, io, sync::Arc};

use axum::http::Uri;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    Refusal,
    jwks::{JwksSource, KeySet},
    jwt::{Issuer, Jwts},
    scheme::Outcome,
};
use crate::{outgoing::http_client, token::UserId};

/// Verifies the ID tokens of one provider for one client (OpenID Connect Core 1.0, section 3.1.3.7).
pub struct IdTokens {
    jwts: Jwts,
    client: String,
}

/// What is taken from an ID token that is good.
#[derive(Debug)]
pub struct Identified {
    /// The user.
    pub user: UserId,
    /// The value that the request for the token had.
    pub nonce: String,
    /// When the user last gave the provider a credential, in seconds since the Unix epoch, if the token says so.
    pub auth_time: Option<i64>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    nonce: String,
    auth_time: Option<i64>,
    azp: Option<String>,
    #[serde(rename = "exp")]
    _exp: IgnoredAny,
}

impl IdTokens {
    /// Accepts the ID tokens that `issuer` signs for `client` with its keys at `jwks`. The user's id is in the claim `user_claim`.
    ///
    /// # Errors
    ///
    /// The system has no certificate authorities.
    pub fn new(issuer: &str, client: &str, jwks: Uri, user_claim: &str) -> io::Result<Self> {
        let issuer = Issuer {
            name: issuer.to_owned(),
            audiences: vec![client.to_owned()],
            keys: Arc::new(KeySet::new(JwksSource::Url(jwks), http_client()?)),
            user_claim: Some(user_claim.to_owned()),
            rules: Vec::new(),
        };
        Ok(Self { jwts: Jwts::new(vec![issuer]), client: client.to_owned() })
    }

    /// Verifies an ID token.
    ///
    /// # Errors
    ///
    /// It is not good, or that cannot be known.
    pub async fn verify(&self, token: &str) -> Result<Identified, Refusal> {
        let outcome = match self.jwts.verify(token) {
            Ok(outcome) => outcome,
            Err(needed) => self.jwts.verify_with_new_keys(token, needed).await,
        };
        let caller = match outcome {
            Outcome::Authenticated(caller) => caller,
            Outcome::Failed(reason) => return Err(Refusal::BadCredentials(reason)),
            Outcome::NotRequested | Outcome::Unavailable => return Err(Refusal::Unavailable),
        };
        const WRONG: Refusal = Refusal::BadCredentials("the ID token is not for this client");
        // The signature was verified above.
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| WRONG)?;
        let user = caller.own_user().cloned().ok_or(WRONG)?;
        if claims.azp.is_some_and(|azp| azp != self.client) {
            return Err(WRONG);
        }
        Ok(Identified { user, nonce: claims.nonce, auth_time: claims.auth_time })
    }
}

impl fmt::Debug for IdTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdTokens").field("jwts", &self.jwts).finish_non_exhaustive()
    }
}
