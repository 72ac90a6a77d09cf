//! The name that a user gives to a token.

use std::fmt;

use unicode_normalization::UnicodeNormalization as _;

use super::characters::{Invisible, refuse_invisible};

/// A name of 3 to 64 characters (Unicode scalar values), trimmed, in Unicode Normalization Form C (UAX #15), without
/// invisible characters: names that look the same in a list are, with few exceptions, the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenName(Box<str>);

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Fewer than 3 characters.
    #[error("has {0} characters after trimming; at least {min} are needed", min = TokenName::MIN)]
    TooShort(usize),
    /// More than 64 characters.
    #[error("has more than {max} characters after trimming", max = TokenName::MAX)]
    TooLong,
    /// The name has a control or invisible character.
    #[error(transparent)]
    Invisible(#[from] Invisible),
}

impl TokenName {
    pub(crate) const MIN: usize = 3;
    pub(crate) const MAX: usize = 64;
    /// Bounds the work of normalisation. One character in NFC stands for at most 4 characters of the text, so a longer
    /// text has more than 64 in any case.
    const MAX_BYTES: usize = 4 * 1024;

    /// Trims and normalises `text`, and checks it.
    ///
    /// # Errors
    ///
    /// The first error found.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.trim();
        if text.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong);
        }
        refuse_invisible(text)?;
        let name: String = text.nfc().collect();
        match name.chars().count() {
            short if short < Self::MIN => Err(NameError::TooShort(short)),
            long if long > Self::MAX => Err(NameError::TooLong),
            _ => Ok(Self(name.into())),
        }
    }

    /// Restores a name from the database; it was checked before it was stored.
    pub(crate) fn from_stored(name: String) -> Self {
        Self(name.into())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String, NameError> {
        TokenName::parse(text).map(|name| name.0.into())
    }

    #[test]
    fn names_are_trimmed_and_normalised() {
        assert_eq!(parse("  ci bot\n"), Ok("ci bot".into()));
        assert_eq!(parse("cafe\u{301}"), Ok("caf\u{e9}".into()));
        assert_eq!(parse("部署令牌"), Ok("部署令牌".into()));
        assert_eq!(parse("🚀🚀🚀"), Ok("🚀🚀🚀".into()));
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        assert_eq!(parse("äö"), Err(NameError::TooShort(2)));
        assert_eq!(parse(" ab "), Err(NameError::TooShort(2)));
        assert_eq!(parse(""), Err(NameError::TooShort(0)));
        assert!(parse(&"ä".repeat(64)).is_ok());
        assert_eq!(parse(&"ä".repeat(65)), Err(NameError::TooLong));
        assert_eq!(parse(&"e\u{301}".repeat(64)).map(|name| name.len()), Ok(128));
        assert_eq!(parse(&"x".repeat(1 << 20)), Err(NameError::TooLong));
    }

    #[test]
    fn invisible_characters_are_refused() {
        for bad in ['\0', '\u{200b}', '\u{202e}', '\u{e0041}'] {
            assert_eq!(parse(&format!("a{bad}bc")), Err(NameError::Invisible(Invisible(bad))));
        }
    }

    proptest! {
        #[test]
        fn a_parsed_name_meets_the_rules_and_parses_to_itself(text in "\\PC{0,80}") {
            if let Ok(name) = parse(&text) {
                prop_assert_eq!(parse(&name), Ok(name.clone()));
                prop_assert!((3..=64).contains(&name.chars().count()));
                prop_assert_eq!(name.trim(), &name);
                prop_assert_eq!(refuse_invisible(&name), Ok(()));
            }
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
