//! What a token may be used for, in the words of whoever checks it.

use std::{fmt, str::FromStr};

/// One permission: `[a-z0-9][a-z0-9:._-]{0,63}`. Latchkey compares scopes and gives them no meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope(String);

/// Why texts are no scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Not of the form.
    #[error("must be 1 to 64 characters of a-z, 0-9, ':', '.', '_' and '-', a letter or digit first")]
    Form,
    /// More than [`Scopes::MAX`].
    #[error("has {0} scopes; at most {max} are allowed", max = Scopes::MAX)]
    TooMany(usize),
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let letter_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = text.len() <= 64
            && text.bytes().next().is_some_and(letter_or_digit)
            && text.bytes().all(|byte| letter_or_digit(byte) || b":._-".contains(&byte));
        fits.then(|| Self(text.to_owned())).ok_or(ScopeError::Form)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of scopes, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// How many scopes a set may have.
    pub const MAX: usize = 64;

    /// The set of `scopes`; doubles count once.
    pub fn new(mut scopes: Vec<Scope>) -> Self {
        scopes.sort_unstable();
        scopes.dedup();
        Self(scopes)
    }

    /// Whether every one of `required` is in this set.
    pub fn contains_all(&self, required: &Scopes) -> bool {
        required.0.iter().all(|scope| self.0.binary_search(scope).is_ok())
    }

    /// The scopes in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|scope| scope.0.as_str())
    }

    /// The form in which a set is stored: a space between two scopes, as in OAuth 2.0 (RFC 6749, 3.3).
    pub(crate) fn to_stored(&self) -> String {
        self.iter().collect::<Vec<_>>().join(" ")
    }

    /// A set that was checked before it was stored.
    pub(crate) fn from_stored(text: &str) -> Self {
        Self::new(text.split_ascii_whitespace().map(|scope| Scope(scope.to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_is_narrow() {
        for good in ["a", "repo:read", "0.x_y-z", &"a".repeat(64)] {
            assert!(good.parse::<Scope>().is_ok(), "{good}");
        }
        for bad in ["", ":a", "-", "Repo", "a b", "a*", "ä", "a\n", &"a".repeat(65)] {
            assert_eq!(bad.parse::<Scope>(), Err(ScopeError::Form), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_stored_set_reads_back_the_same(texts in prop::collection::vec("[a-z0-9][a-z0-9:._-]{0,5}", 0..8)) {
            let set = Scopes::new(texts.iter().map(|text| text.parse().unwrap()).collect());
            prop_assert_eq!(&Scopes::from_stored(&set.to_stored()), &set);
            prop_assert!(set.contains_all(&set));
            prop_assert!(set.contains_all(&Scopes::default()));
            prop_assert_eq!(Scopes::default().contains_all(&set), texts.is_empty());
        }
    }
}
