//! Listing a user's tokens.

use uuid::Uuid;

use super::{RegistryError, TokenRegistry};
use crate::{
    caller::Caller,
    token::{PageSize, Token, UserId},
};

/// Part of a user's tokens, newest first.
#[derive(Debug)]
pub struct Page {
    /// The tokens of this page.
    pub tokens: Vec<Token>,
    /// Where the next page begins: below this id. `None` on the last page.
    pub next: Option<Uuid>,
}

impl TokenRegistry {
    /// Lists a page of the user's tokens that are not revoked, from below the id `before` on.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotAllowed`], or a failure of the database.
    pub async fn list(
        &self,
        caller: &Caller,
        user: &UserId,
        before: Option<Uuid>,
        size: PageSize,
    ) -> Result<Page, RegistryError> {
        caller.check_user(user)?;
        self.authenticator.check_lease()?;
        let size = usize::from(size.get());
        // One more than asked for tells whether there is a next page.
        let mut tokens = self.store.page_tokens(user, before, size as u64 + 1).await?;
        // What a server says that was replaced meanwhile may be out of date.
        self.authenticator.check_lease()?;
        let more = tokens.len() > size;
        tokens.truncate(size);
        let next = tokens.last().filter(|_| more).map(|token| token.id);
        Ok(Page { tokens, next })
    }
}
