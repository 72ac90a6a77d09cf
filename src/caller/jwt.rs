//! Callers by a JWT (RFC 7519) in the Authorization header, and users by their own.
//!
//! A JWT that was verified is remembered by its digest, so that the signature is checked once.

use std::{fmt, sync::Arc};

use jsonwebtoken::{Validation, errors::ErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    Caller,
    identity::ListedCaller,
    jwks::{KeySet, Keys},
    scheme::Outcome,
};

/// How far the clocks of issuer and service may differ, in seconds.
const LEEWAY: u64 = 60;
/// Maximum size of a JWT, in bytes.
const MAX_JWT: usize = 8 * 1024;
/// Verified JWTs that are remembered.
const REMEMBERED: usize = 10_000;

/// An issuer of JWTs.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) audiences: Vec<String>,
    pub(super) keys: Arc<KeySet>,
    /// The claim that has the user's id, if users may call with its JWTs.
    pub(super) user_claim: Option<String>,
    pub(super) rules: Vec<JwtRule>,
}

/// Which JWTs of an issuer are a caller's.
#[derive(Debug)]
pub(super) struct JwtRule {
    pub(super) claim: String,
    pub(super) value: String,
    pub(super) caller: Arc<ListedCaller>,
}

/// The issuers, and the JWTs that were verified.
pub(super) struct Jwts {
    issuers: Vec<Issuer>,
    verified: quick_cache::sync::Cache<[u8; 32], Verified>,
}

#[derive(Clone)]
struct Verified {
    caller: Caller,
    /// In seconds since the Unix epoch, the leeway included.
    until: u64,
    issuer: usize,
    keys_version: [u8; 32],
}

/// The index of an issuer whose keys have to be read before a JWT can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeysNeeded(usize);

impl fmt::Debug for Jwts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwts").field("issuers", &self.issuers).finish_non_exhaustive()
    }
}

/// Whether a bearer credential has the form of a JWT: three parts, of which the first two are base64url.
pub(super) fn is_jwt(credential: &str) -> bool {
    let is_base64url = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let mut parts = credential.split('.');
    parts.next().is_some_and(|part| part.starts_with("ey") && is_base64url(part))
        && parts.next().is_some_and(is_base64url)
        && parts.next().is_some()
        && parts.next().is_none()
}

impl Jwts {
    pub(super) fn new(issuers: Vec<Issuer>) -> Self {
        Self { issuers, verified: quick_cache::sync::Cache::new(REMEMBERED) }
    }

    pub(super) fn key_sets(&self) -> impl Iterator<Item = &Arc<KeySet>> {
        self.issuers.iter().map(|issuer| &issuer.keys)
    }

    /// Returns what is remembered of the JWT, if its keys are still the issuer's.
    pub(super) fn remembered(&self, jwt: &str) -> Option<Outcome> {
        let verified = self.verified.get(&digest(jwt))?;
        let issuer = &self.issuers[verified.issuer];
        let good = verified.until > jsonwebtoken::get_current_timestamp()
            && verified.keys_version == issuer.keys.keys().version;
        good.then_some(Outcome::Authenticated(verified.caller))
    }

    /// Verifies a JWT with the keys as they are.
    ///
    /// # Errors
    ///
    /// The key is not known; [`Jwts::read_keys`] may find it.
    pub(super) fn verify(&self, jwt: &str) -> Result<Outcome, KeysNeeded> {
        if jwt.len() > MAX_JWT {
            return Ok(Outcome::Failed("the JWT has more than 8192 bytes"));
        }
        #[derive(Deserialize)]
        struct Unverified {
            iss: Option<String>,
        }
        let (Ok(header), Ok(Unverified { iss: Some(name) })) =
            (jsonwebtoken::decode_header(jwt), jsonwebtoken::dangerous::insecure_decode_claims(jwt))
        else {
            return Ok(Outcome::Failed("not a JWT with an issuer and an algorithm that is known"));
        };
        let Some(index) = self.issuers.iter().position(|issuer| issuer.name == name) else {
            return Ok(Outcome::Failed("the JWT's issuer is not known"));
        };
        let issuer = &self.issuers[index];
        let keys = issuer.keys.keys();
        let Some(key) = keys.find(header.kid.as_deref()) else { return Err(KeysNeeded(index)) };
        if !key.algorithms.contains(&header.alg) {
            return Ok(Outcome::Failed("the JWT's algorithm is not that of its key"));
        }
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_audience(&issuer.audiences);
        validation.set_issuer(&[&issuer.name]);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        let claims = match jsonwebtoken::decode::<Map<String, Value>>(jwt, &key.decoding, &validation) {
            Ok(decoded) => decoded.claims,
            Err(error) => return Ok(Outcome::Failed(reason(error.kind()))),
        };
        Ok(self.recognise(jwt, index, &claims, &keys))
    }

    /// Reads the keys of an issuer anew, and verifies the JWT with them.
    pub(super) async fn verify_with_new_keys(&self, jwt: &str, KeysNeeded(index): KeysNeeded) -> Outcome {
        let keys = &self.issuers[index].keys;
        keys.refetch().await;
        if !keys.keys().were_read() {
            return Outcome::Unavailable;
        }
        self.verify(jwt).unwrap_or(Outcome::Failed("the JWT's key is not one of its issuer's"))
    }

    fn recognise(&self, jwt: &str, index: usize, claims: &Map<String, Value>, keys: &Keys) -> Outcome {
        let issuer = &self.issuers[index];
        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        let mut matching = issuer.rules.iter().filter(|rule| text(&rule.claim) == Some(&rule.value));
        let caller = match (matching.next(), &issuer.user_claim) {
            (Some(rule), _) if matching.any(|other| other.caller.name != rule.caller.name) => {
                return Outcome::Failed("the JWT is that of more than one caller");
            }
            (Some(rule), _) => Caller::listed(&rule.caller),
            (None, Some(claim)) => match text(claim).and_then(|user| user.parse().ok()) {
                Some(user) => Caller::of_user(user),
                None => return Outcome::Failed("the JWT has no user id"),
            },
            (None, None) => return Outcome::Failed("the JWT is no caller's"),
        };
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or_default();
        let verified = Verified {
            caller: caller.clone(),
            // Saturates; nobody's token is that old.
            until: (expires as u64).saturating_add(LEEWAY),
            issuer: index,
            keys_version: keys.version,
        };
        self.verified.insert(digest(jwt), verified);
        Outcome::Authenticated(caller)
    }
}

fn digest(jwt: &str) -> [u8; 32] {
    Sha256::digest(jwt).into()
}

fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "the JWT has expired",
        ErrorKind::ImmatureSignature => "the JWT is not valid yet",
        ErrorKind::InvalidAudience => "the JWT is for another audience",
        ErrorKind::InvalidSignature => "the JWT's signature is wrong",
        ErrorKind::MissingRequiredClaim(_) => "the JWT lacks exp, aud or iss",
        _ => "the JWT is not valid",
    }
}
