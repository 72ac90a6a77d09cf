//! What every way of recognising a caller answers.

use super::Caller;

/// What one scheme says of a request.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The request has no credential of this scheme.
    NotRequested,
    /// The credential is a caller's.
    Authenticated(Caller),
    /// The credential is nobody's. The text is for the log and for the caller, and has nothing of the credential.
    Failed(&'static str),
    /// It cannot be known now whose the credential is.
    Unavailable,
}
