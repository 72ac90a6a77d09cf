//! How many tokens may be created in a minute, for each user and by each caller.

use std::{
    fmt,
    num::NonZeroU32,
    sync::atomic::{AtomicUsize, Ordering},
};

use governor::{
    DefaultKeyedRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};

use super::RegistryError;
use crate::{caller::Caller, token::UserId};

/// Users and callers that are remembered; with more, those that have created nothing lately are dropped.
const REMEMBERED: usize = 10_000;
/// Attempts between two looks at whether there are more.
const CLEAN_EVERY: usize = 1_024;

/// Limits how fast tokens are created.
pub struct CreationRates {
    users: DefaultKeyedRateLimiter<UserId>,
    callers: DefaultKeyedRateLimiter<String>,
    /// Attempts so far.
    attempts: AtomicUsize,
}

impl fmt::Debug for CreationRates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CreationRates")
    }
}

impl CreationRates {
    /// Lets `per_user` tokens be created in a minute for a user, and `per_caller` by a caller of the callers file.
    pub fn new(per_user: NonZeroU32, per_caller: NonZeroU32) -> Self {
        Self {
            users: DefaultKeyedRateLimiter::keyed(Quota::per_minute(per_user)),
            callers: DefaultKeyedRateLimiter::keyed(Quota::per_minute(per_caller)),
            attempts: AtomicUsize::new(0),
        }
    }

    /// Counts an attempt to create a token.
    ///
    /// # Errors
    ///
    /// [`RegistryError::TooFast`].
    pub(super) fn check(&self, caller: &Caller, user: &UserId) -> Result<(), RegistryError> {
        let attempts = self.attempts.fetch_add(1, Ordering::Relaxed);
        if attempts.is_multiple_of(CLEAN_EVERY) && self.users.len() > REMEMBERED {
            self.users.retain_recent();
        }
        let checked = match caller.name() {
            Some(name) => self.callers.check_key(&name.to_owned()),
            None => Ok(()),
        };
        checked.and_then(|()| self.users.check_key(user)).map_err(|refused| RegistryError::TooFast {
            wait: refused.wait_time_from(DefaultClock::default().now()),
        })
    }
}
