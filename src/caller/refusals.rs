//! Refused requests: why, how many, and the log's lines about them.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota};

use super::NotAllowed;
use crate::listener::Peer;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has no credentials.
    NoCredentials,
    /// Its credentials are nobody's, or contradict each other. The text has nothing of them.
    BadCredentials(&'static str),
    /// Too many credentials of the same address were wrong; the next attempt may be made after this time.
    TooManyFailures(Duration),
    /// The caller may not do this.
    NotAllowed(NotAllowed),
    /// The keys of the issuer were never read, so that its JWTs cannot be verified.
    Unavailable,
}

impl Refusal {
    /// The names of the reasons in metrics.
    pub const NAMES: [&str; 5] =
        ["no_credentials", "bad_credentials", "too_many_failures", "not_allowed", "unavailable"];

    fn index(self) -> usize {
        match self {
            Self::NoCredentials => 0,
            Self::BadCredentials(_) => 1,
            Self::TooManyFailures(_) => 2,
            Self::NotAllowed(_) => 3,
            Self::Unavailable => 4,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoCredentials => f.write_str("the request has no credentials"),
            Self::BadCredentials(reason) => f.write_str(reason),
            Self::TooManyFailures(_) => f.write_str("too many credentials of this address were wrong"),
            Self::NotAllowed(error) => error.fmt(f),
            Self::Unavailable => f.write_str("the keys of the JWT's issuer are out of reach"),
        }
    }
}

/// Lines of the log about refusals in a second, and at once.
const LOGGED_A_SECOND: NonZeroU32 = NonZeroU32::MIN;
const LOGGED_AT_ONCE: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// Counts refusals, and logs some of them.
#[derive(Debug)]
pub struct Refusals {
    counts: [AtomicU64; Refusal::NAMES.len()],
    /// Not logged since the last line that was.
    unlogged: AtomicU64,
    lines: DefaultDirectRateLimiter,
}

impl Default for Refusals {
    fn default() -> Self {
        let quota = Quota::per_second(LOGGED_A_SECOND).allow_burst(LOGGED_AT_ONCE);
        Self {
            counts: Default::default(),
            unlogged: AtomicU64::new(0),
            lines: DefaultDirectRateLimiter::direct(quota),
        }
    }
}

impl Refusals {
    /// Returns how many requests were refused since the start, by reason.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::NAMES.into_iter().zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    pub(super) fn note(&self, endpoint: &str, peer: Option<&Peer>, refusal: &Refusal) {
        self.counts[refusal.index()].fetch_add(1, Ordering::Relaxed);
        if self.lines.check().is_err() {
            self.unlogged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let unlogged = self.unlogged.swap(0, Ordering::Relaxed);
        let peer = peer.map(|peer| peer.addr.ip().to_string());
        tracing::warn!(endpoint, peer, reason = %refusal, unlogged, "a request was refused");
    }
}
