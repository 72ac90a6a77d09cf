//! The ways to take access away, and the answers that acknowledge it.

use latchkey::proto::latchkey::DeleteTokenRequest;
use tonic::Code;

use super::{checker::TokenHistory, site::Site};

/// A call or an event that takes access away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    DeleteToken,
    DeleteTokenAllowingMissing,
    /// `POST /oauth2/revoke` with the bearer token.
    RevokeByHolder,
    /// `UserDeleted` over HTTP.
    DeleteUser,
    /// `UserDeleted` over NATS, handled by any replica.
    DeleteUserByMessage,
}

/// An answer that promises that no replica accepts the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Acknowledgement {
    Deleted,
    NotFound,
    DeletedOrMissing,
    RevokedByHolder,
    UserDeleted,
    UserDeletedByMessage,
}

impl Acknowledgement {
    pub const ALL: [Self; 6] = [
        Self::Deleted,
        Self::NotFound,
        Self::DeletedOrMissing,
        Self::RevokedByHolder,
        Self::UserDeleted,
        Self::UserDeletedByMessage,
    ];
}

impl Revocation {
    pub const ALL: [Self; 5] = [
        Self::DeleteToken,
        Self::DeleteTokenAllowingMissing,
        Self::RevokeByHolder,
        Self::DeleteUser,
        Self::DeleteUserByMessage,
    ];

    /// Whether it takes away all tokens of the user.
    pub fn is_of_the_account(self) -> bool {
        matches!(self, Self::DeleteUser | Self::DeleteUserByMessage)
    }

    /// Asks the replica, and returns what it acknowledged; `None` if it is not known whether the token is revoked.
    pub async fn ask(self, site: &Site, replica: usize, token: &TokenHistory) -> Option<Acknowledgement> {
        let client = site.client(replica);
        match self {
            Self::DeleteToken | Self::DeleteTokenAllowingMissing => {
                let allow_missing = self == Self::DeleteTokenAllowingMissing;
                let (user_id, token_id) = (token.user.clone(), token.id.clone());
                let request = DeleteTokenRequest { user_id, token_id, allow_missing };
                match client.tokens().delete_token(request).await {
                    Ok(_) if allow_missing => Some(Acknowledgement::DeletedOrMissing),
                    Ok(_) => Some(Acknowledgement::Deleted),
                    Err(status) if status.code() == Code::NotFound => Some(Acknowledgement::NotFound),
                    Err(_) => None,
                }
            }
            Self::RevokeByHolder => {
                let status = client.revoke_as_holder(&token.secret).await?;
                (status == 200).then_some(Acknowledgement::RevokedByHolder)
            }
            Self::DeleteUser => {
                (client.post_deletion(&token.user).await? == 202).then_some(Acknowledgement::UserDeleted)
            }
            Self::DeleteUserByMessage => {
                site.messages.delete_user(&token.user).await;
                Some(Acknowledgement::UserDeletedByMessage)
            }
        }
    }
}
