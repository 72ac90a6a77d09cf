//! UUIDs in the only form that the API uses.

use uuid::Uuid;

/// Parses a UUID in its hyphenated form. `Uuid` also accepts other forms, which the service never returns.
pub(crate) fn parse_hyphenated(text: &str) -> Option<Uuid> {
    let hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
    hyphenated.then(|| Uuid::try_parse(text).ok()).flatten()
}
