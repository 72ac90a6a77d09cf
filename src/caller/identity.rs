//! Who is calling, and for whom that caller may act.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use uuid::Uuid;

use super::policy::{Access, Role};
use crate::token::{Scopes, Token, UserId};

/// Who is calling. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller(Identity);

#[derive(Clone, Debug)]
enum Identity {
    /// No callers are configured, so nobody is asked.
    Unchecked,
    /// A caller of the callers file.
    Listed(Arc<ListedCaller>),
    /// A user with a JWT.
    User(UserId),
    /// The holder of a token.
    Holder { token: Uuid, user: UserId },
}

/// A caller of the callers file.
#[derive(Debug)]
pub(super) struct ListedCaller {
    pub(super) name: String,
    pub(super) roles: Vec<Role>,
    /// The users for whom it may act; `None` for all.
    pub(super) users: Option<BTreeSet<String>>,
    /// The scopes that tokens which it creates may have; `None` for all.
    pub(super) scopes: Option<Scopes>,
}

/// The caller may not do what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// Its role does not allow the call.
    #[error("the caller may not make this call")]
    Call,
    /// It may not act for the user. The words are the same whether or not the user exists.
    #[error("user_id: the caller may not act for this user")]
    User,
    /// It may not create tokens with these scopes.
    #[error("scopes: the caller may not create tokens with these scopes")]
    Scopes,
}

impl Caller {
    /// Returns the caller of a service that has no callers file: it may do everything.
    pub fn unchecked() -> Self {
        Self(Identity::Unchecked)
    }

    pub(super) fn listed(caller: &Arc<ListedCaller>) -> Self {
        Self(Identity::Listed(Arc::clone(caller)))
    }

    /// Returns a user whose identity was checked otherwise.
    pub fn of_user(user: UserId) -> Self {
        Self(Identity::User(user))
    }

    /// Returns the holder of a token that was found valid, who may revoke it.
    pub fn holder(token: &Token) -> Self {
        Self(Identity::Holder { token: token.id, user: token.user_id.clone() })
    }

    /// Returns the name in the audit log: `caller:NAME`, `user:ID`, `token:ID` or `anonymous`.
    pub fn actor(&self) -> Cow<'static, str> {
        match &self.0 {
            Identity::Unchecked => "anonymous".into(),
            Identity::Listed(caller) => format!("caller:{}", caller.name).into(),
            Identity::User(user) => format!("user:{}", user.as_str()).into(),
            Identity::Holder { token, .. } => format!("token:{}", token.hyphenated()).into(),
        }
    }

    /// Returns the name in the callers file, if it is there.
    pub fn name(&self) -> Option<&str> {
        match &self.0 {
            Identity::Listed(caller) => Some(&caller.name),
            Identity::Unchecked | Identity::User(_) | Identity::Holder { .. } => None,
        }
    }

    /// Returns the user that the caller is, if it is one. An empty user id in a request means this user.
    pub fn own_user(&self) -> Option<&UserId> {
        match &self.0 {
            Identity::User(user) => Some(user),
            Identity::Unchecked | Identity::Listed(_) | Identity::Holder { .. } => None,
        }
    }

    /// Returns whether the caller may act for `user`.
    ///
    /// # Errors
    ///
    /// [`NotAllowed::User`].
    pub fn check_user(&self, user: &UserId) -> Result<(), NotAllowed> {
        let allowed = match &self.0 {
            Identity::Unchecked => true,
            Identity::Listed(caller) => {
                caller.users.as_ref().is_none_or(|users| users.contains(user.as_str()))
            }
            Identity::User(own) | Identity::Holder { user: own, .. } => own == user,
        };
        if allowed { Ok(()) } else { Err(NotAllowed::User) }
    }

    /// Returns whether the caller may create tokens with `scopes`.
    ///
    /// # Errors
    ///
    /// [`NotAllowed::Scopes`].
    pub fn check_scopes(&self, scopes: &Scopes) -> Result<(), NotAllowed> {
        match &self.0 {
            Identity::Listed(caller)
                if caller.scopes.as_ref().is_some_and(|allowed| !allowed.contains_all(scopes)) =>
            {
                Err(NotAllowed::Scopes)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn may(&self, access: Access) -> bool {
        match &self.0 {
            Identity::Unchecked => true,
            Identity::Listed(caller) => access.allows(&caller.roles),
            Identity::User(_) => access.allows_self(),
            // Made after a request was admitted.
            Identity::Holder { .. } => false,
        }
    }

    /// Returns whether both are the same caller.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Identity::Unchecked, Identity::Unchecked) => true,
            (Identity::Listed(one), Identity::Listed(two)) => one.name == two.name,
            (Identity::User(one), Identity::User(two)) => one == two,
            _ => false,
        }
    }
}
