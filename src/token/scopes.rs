//! What a token may be used for, in terms that only the services which check it understand.

use std::{fmt, str::FromStr};

/// One permission: `[a-z0-9][a-z0-9:._-]{0,63}`. Latchkey compares scopes and gives them no meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope(String);

/// The text is not a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 characters of a-z, 0-9, ':', '.', '_' and '-', a letter or digit first")]
pub struct ScopeError;

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let letter_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = text.len() <= 64
            && text.bytes().next().is_some_and(letter_or_digit)
            && text.bytes().all(|byte| letter_or_digit(byte) || b":._-".contains(&byte));
        fits.then(|| Self(text.to_owned())).ok_or(ScopeError)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A sorted set of at most 64 scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Box<[Scope]>);

/// Why a list of texts is not a set of scopes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopesError {
    /// The list is too long. Carries its length, duplicates included.
    #[error("has {0} scopes; at most {max} are allowed", max = Scopes::MAX)]
    TooMany(usize),
    /// Some texts are not scopes. Carries the index of each, from 0, and what is wrong with it.
    #[error("has {} items that are not scopes", .0.len())]
    Items(Vec<(usize, ScopeError)>),
}

impl Scopes {
    const MAX: usize = 64;

    /// Parses each of `texts`. Duplicates are dropped, but count towards the maximum.
    ///
    /// # Errors
    ///
    /// There are more than 64 texts, or some are not scopes.
    pub fn parse(texts: &[String]) -> Result<Self, ScopesError> {
        if texts.len() > Self::MAX {
            return Err(ScopesError::TooMany(texts.len()));
        }
        let mut scopes = Vec::with_capacity(texts.len());
        let mut errors = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match text.parse() {
                Ok(scope) => scopes.push(scope),
                Err(error) => errors.push((index, error)),
            }
        }
        if errors.is_empty() { Ok(Self::new(scopes)) } else { Err(ScopesError::Items(errors)) }
    }

    /// Sorts `scopes` and drops duplicates.
    pub(crate) fn new(mut scopes: Vec<Scope>) -> Self {
        scopes.sort_unstable();
        scopes.dedup();
        Self(scopes.into())
    }

    /// Returns whether this set has every scope of `required`.
    pub fn contains_all(&self, required: &Scopes) -> bool {
        required.0.iter().all(|scope| self.0.binary_search(scope).is_ok())
    }

    /// Returns the scopes in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|scope| scope.0.as_str())
    }

    /// Returns the scopes separated by spaces, as in OAuth 2.0 (RFC 6749, section 3.3) and in the database.
    pub(crate) fn to_text(&self) -> String {
        self.iter().collect::<Vec<_>>().join(" ")
    }

    /// Restores a set from the database; it was checked before it was stored.
    pub(crate) fn from_stored(text: &str) -> Self {
        Self::new(text.split_ascii_whitespace().map(|scope| Scope(scope.to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_scope_is_one_to_64_characters_of_a_small_alphabet() {
        for good in ["a", "repo:read", "0.x_y-z", &"a".repeat(64)] {
            assert!(good.parse::<Scope>().is_ok(), "{good}");
        }
        for bad in ["", ":a", "-", "Repo", "a b", "a*", "ä", "a\n", &"a".repeat(65)] {
            assert_eq!(bad.parse::<Scope>(), Err(ScopeError), "{bad:?}");
        }
    }

    #[test]
    fn a_set_has_at_most_64_scopes_and_every_wrong_one_is_reported() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let set = Scopes::parse(&texts(&["b", "a", "b"])).unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(Scopes::parse(&[]), Ok(Scopes::default()));

        let wrong = Scopes::parse(&texts(&["A", "a", ""]));
        assert_eq!(wrong, Err(ScopesError::Items(vec![(0, ScopeError), (2, ScopeError)])));

        assert!(Scopes::parse(&vec!["a".to_owned(); 64]).is_ok());
        let too_many = Scopes::parse(&vec!["a".to_owned(); 65]).unwrap_err();
        assert_eq!(too_many, ScopesError::TooMany(65));
        assert_eq!(too_many.to_string(), "has 65 scopes; at most 64 are allowed");
    }

    proptest! {
        #[test]
        fn a_stored_set_reads_back_the_same(texts in prop::collection::vec("[a-z0-9][a-z0-9:._-]{0,5}", 0..8)) {
            let set = Scopes::new(texts.iter().map(|text| text.parse().unwrap()).collect());
            prop_assert_eq!(&Scopes::from_stored(&set.to_text()), &set);
            prop_assert!(set.contains_all(&set));
            prop_assert!(set.contains_all(&Scopes::default()));
            prop_assert_eq!(Scopes::default().contains_all(&set), texts.is_empty());
        }
    }
}
