//! A request that is repeated because its answer was lost: the same token, with a fresh secret in place of the one that
//! nobody received.

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};

use super::{
    RegistryError,
    issue::{Issuance, NewToken, OnRepeat},
    revoke::commit_and_evict,
};
use crate::{
    credentials::{SecretHash, Tag},
    store::{CommitGate, EarlierRequest, EventKind, Eviction, Server, WriteTransaction},
    token::Token,
};

/// How long a request can be repeated.
pub(super) const WINDOW: TimeDelta = TimeDelta::hours(1);

/// Returns a digest of what is requested, apart from the user and the request id. Each text follows its length, so that
/// two requests never have the same encoding.
pub(super) fn content(new: &NewToken) -> [u8; 32] {
    let mut digest = Sha256::new();
    for text in [new.name.as_str(), &new.scopes.to_text()] {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    // No expiry is so early.
    let expiry = new.expiry.map_or(i64::MIN, |expiry| expiry.at().timestamp_micros());
    digest.update(expiry.to_be_bytes());
    digest.finalize().into()
}

impl Issuance {
    /// Returns the token of the earlier request, if it may get another secret: it is the same request, and nobody can have
    /// received the first secret as far as this replica knows.
    pub(super) fn same_token(
        &self,
        earlier: &EarlierRequest,
        now: DateTime<Utc>,
    ) -> Result<Token, RegistryError> {
        let done = RegistryError::RequestDone { token_id: earlier.token_id };
        if self.new.on_repeat == OnRepeat::Refuse {
            return Err(done);
        }
        if earlier.content != content(&self.new) {
            return Err(RegistryError::RequestIdReused);
        }
        // A token that was revoked long ago may be purged.
        let Some(created_at) = earlier.created_at else { return Err(done) };
        let token = self.token(earlier.token_id, created_at);
        let used = earlier.used || self.last_used.is_noted(token.id);
        if used || earlier.revoked || token.is_expired(now) { Err(done) } else { Ok(token) }
    }

    /// Gives the token another secret. Returns it and the server of the transaction.
    pub(super) async fn replace_secret(
        &self,
        transaction: WriteTransaction,
        gate: &CommitGate,
        token: Token,
        (hash, tag): (SecretHash, Option<Tag>),
        now: DateTime<Utc>,
    ) -> Result<(Token, Server), RegistryError> {
        // The account's lock does not keep others from revoking the token or writing its use, so the statement checks both
        // once more.
        if !transaction.replace_secret(token.id, &hash, tag).await? {
            return Err(RegistryError::RequestDone { token_id: token.id });
        }
        let kind = EventKind::TokenSecretReplaced;
        let server = transaction.record(self.origin.event(kind, &token.user_id, token.id, now)).await?;
        self.authenticator.check_epoch(server.epoch)?;
        let eviction = Eviction::Token(token.id);
        let committed = commit_and_evict(transaction, gate, &self.authenticator, &eviction).await;
        let (user_id, token_id) = (token.user_id.as_str(), token.id);
        match committed {
            Ok(()) => tracing::info!(user_id, %token_id, "token secret replaced"),
            Err(error) => {
                tracing::warn!(user_id, %token_id, %error, "not known whether the token's secret is replaced");
                return Err(error.into());
            }
        }
        Ok((token, server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Expiry, Scopes, TokenName};

    #[test]
    fn each_part_of_a_request_is_in_its_content() {
        let new = |name: &str, scopes: &[&str], seconds: Option<i64>| {
            let scopes: Vec<String> = scopes.iter().map(|&scope| scope.to_owned()).collect();
            content(&NewToken {
                user_id: "alice".parse().unwrap(),
                name: TokenName::parse(name).unwrap(),
                scopes: Scopes::parse(&scopes).unwrap(),
                expiry: seconds.map(|at| Expiry::parse(at, 0, DateTime::UNIX_EPOCH).unwrap()),
                request_id: None,
                on_repeat: OnRepeat::ReplaceSecret,
            })
        };
        let contents = [
            new("one", &[], None),
            new("one", &[], Some(1)),
            new("one", &[], Some(2)),
            new("one", &["a"], None),
            new("one", &["a", "b"], None),
            new("one", &["ab"], None),
            new("one a", &[], None),
            new("one a", &["b"], None),
        ];
        for (index, content) in contents.iter().enumerate() {
            assert!(!contents[..index].contains(content), "{index}");
        }
        assert_eq!(new(" one ", &["b", "a", "b"], Some(1)), new("one", &["a", "b"], Some(1)));
    }
}
