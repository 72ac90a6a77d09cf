//! Validation: whether a bearer token is good, and why not.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use chrono::{DateTime, Utc};

use super::{RegistryError, TokenRegistry};
use crate::{
    caller::Caller,
    store::TokenState,
    token::{BearerToken, Scopes, Token},
    validation::Authenticated,
};

/// Whether a bearer token is good.
#[derive(Debug)]
pub enum Verdict {
    /// It is: act as the token's user.
    Valid(Arc<Token>),
    /// It is not.
    Invalid(Reason),
}

/// Why a bearer token is not good. The first that applies, in this order, is the one that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not of a token's form.
    Malformed,
    /// No such token, or not its secret.
    Unknown,
    /// The token was deleted.
    Revoked,
    /// The account of the token's user was deleted.
    UserDeleted,
    /// The token has expired.
    Expired,
    /// The token lacks a required scope.
    MissingScope,
}

impl Reason {
    /// Every reason, in the order in which they are checked.
    pub const ALL: [Self; 6] =
        [Self::Malformed, Self::Unknown, Self::Revoked, Self::UserDeleted, Self::Expired, Self::MissingScope];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::UserDeleted => "user_deleted",
            Self::Expired => "expired",
            Self::MissingScope => "missing_scope",
        }
    }
}

/// How the service was asked to validate a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `ValidateToken`.
    Grpc,
    /// Envoy's external authorization.
    ExtAuthz,
    /// `/verify`.
    Verify,
    /// Token introspection (RFC 7662).
    Introspection,
    /// Token revocation (RFC 7009), which finds the token first.
    Revocation,
    /// A TokenReview of Kubernetes.
    TokenReview,
}

impl Transport {
    /// Every transport.
    pub const ALL: [Self; 6] =
        [Self::Grpc, Self::ExtAuthz, Self::Verify, Self::Introspection, Self::Revocation, Self::TokenReview];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::ExtAuthz => "ext_authz",
            Self::Verify => "verify",
            Self::Introspection => "introspection",
            Self::Revocation => "revocation",
            Self::TokenReview => "token_review",
        }
    }
}

/// How many validations ended how.
#[derive(Debug, Default)]
pub(super) struct Outcomes([TransportOutcomes; Transport::ALL.len()]);

#[derive(Debug, Default)]
struct TransportOutcomes {
    valid: AtomicU64,
    invalid: [AtomicU64; Reason::ALL.len()],
}

impl Outcomes {
    /// A transport's or a reason's number is its index in `ALL`; a test checks it.
    fn counter(&self, transport: Transport, reason: Option<Reason>) -> &AtomicU64 {
        let outcomes = &self.0[transport as usize];
        match reason {
            None => &outcomes.valid,
            Some(reason) => &outcomes.invalid[reason as usize],
        }
    }
}

impl TokenRegistry {
    /// How many bearer tokens were valid since the start, or invalid for `reason`.
    pub fn validations(&self, transport: Transport, reason: Option<Reason>) -> u64 {
        self.outcomes.counter(transport, reason).load(Ordering::Relaxed)
    }

    /// Tells whether `bearer` is good for the scopes `required`, now.
    ///
    /// # Errors
    ///
    /// It cannot be known: a failure.
    pub async fn validate(
        &self,
        caller: &Caller,
        transport: Transport,
        bearer: &[u8],
        required: &Scopes,
    ) -> Result<Verdict, RegistryError> {
        let verdict = self.verdict(caller, bearer, required).await?;
        let reason = match &verdict {
            Verdict::Valid(_) => None,
            Verdict::Invalid(reason) => Some(*reason),
        };
        self.count(transport, reason);
        Ok(verdict)
    }

    pub(super) fn count(&self, transport: Transport, reason: Option<Reason>) {
        self.outcomes.counter(transport, reason).fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the token of a bearer token, whatever its state, or why there is none.
    pub(super) async fn recognise(
        &self,
        bearer: &[u8],
    ) -> Result<Result<Authenticated, Reason>, RegistryError> {
        let Ok(bearer) = BearerToken::parse(&self.prefix, bearer) else { return Ok(Err(Reason::Malformed)) };
        Ok(self.authenticator.authenticate(&bearer).await?.ok_or(Reason::Unknown))
    }

    async fn verdict(
        &self,
        caller: &Caller,
        bearer: &[u8],
        required: &Scopes,
    ) -> Result<Verdict, RegistryError> {
        let found = match self.recognise(bearer).await? {
            Ok(found) => found,
            Err(reason) => return Ok(Verdict::Invalid(reason)),
        };
        // A caller that is limited to some users learns nothing of the tokens of others.
        if caller.check_user(&found.token.user_id).is_err() {
            return Ok(Verdict::Invalid(Reason::Unknown));
        }
        let now = self.clock.now();
        if let Err(reason) = judge(&found, required, now) {
            return Ok(Verdict::Invalid(reason));
        }
        self.last_used.note(found.token.id, now);
        Ok(Verdict::Valid(found.token))
    }
}

/// Whether a token whose secret was verified is good at `now`.
pub(super) fn judge(found: &Authenticated, required: &Scopes, now: DateTime<Utc>) -> Result<(), Reason> {
    match found.state {
        TokenState::Revoked => Err(Reason::Revoked),
        TokenState::AccountDeleted => Err(Reason::UserDeleted),
        TokenState::Live if found.token.is_expired(now) => Err(Reason::Expired),
        TokenState::Live if !found.token.scopes.contains_all(required) => Err(Reason::MissingScope),
        TokenState::Live => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_counted_by_itself() {
        let outcomes = Outcomes::default();
        for (index, transport) in Transport::ALL.into_iter().enumerate() {
            assert_eq!(transport as usize, index, "{transport:?}");
            assert_eq!(outcomes.counter(transport, None).fetch_add(1, Ordering::Relaxed), 0, "{transport:?}");
            for (index, reason) in Reason::ALL.into_iter().enumerate() {
                assert_eq!(reason as usize, index, "{reason:?}");
                let counter = outcomes.counter(transport, Some(reason));
                assert_eq!(counter.fetch_add(1, Ordering::Relaxed), 0, "{transport:?} {reason:?}");
            }
        }
    }
}
