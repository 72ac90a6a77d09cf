//! Logs when following the revocation log begins to fail, and when it works again: once, not at each poll.

use crate::{clock::Clock, store::StoreError};

/// What fails at present.
#[derive(Debug, Default)]
pub(super) struct Transitions {
    pub(super) read_fails: bool,
    renewal_fails: bool,
    clock_is_wrong: bool,
}

impl Transitions {
    pub(super) fn read(&mut self, polled: &Result<(), StoreError>) {
        match polled {
            Ok(()) if self.read_fails => tracing::info!("the revocation log is read again"),
            Err(error) if !self.read_fails => tracing::warn!(%error, "the revocation log cannot be read"),
            _ => {}
        }
        self.read_fails = polled.is_err();
    }

    pub(super) fn renewed(&mut self, renewed: &Result<bool, StoreError>) {
        match renewed {
            Ok(_) if self.renewal_fails => tracing::info!("the lease is renewed again"),
            Err(error) if !self.renewal_fails => {
                tracing::warn!(%error, "the lease cannot be renewed: the database can be read but not written to");
            }
            _ => {}
        }
        self.renewal_fails = renewed.is_err();
    }

    pub(super) fn clock(&mut self, clock: &Clock) {
        if self.clock_is_wrong == clock.system_is_wrong() {
            return;
        }
        self.clock_is_wrong = !self.clock_is_wrong;
        let seconds_ahead = clock.system_ahead().as_seconds_f64();
        if self.clock_is_wrong {
            tracing::warn!(seconds_ahead, "the clock of this machine differs from the database's");
        } else {
            tracing::info!("the clock of this machine agrees with the database's again");
        }
    }
}
