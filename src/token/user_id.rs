//! The id by which the identity provider knows a user.

use std::{fmt, str::FromStr};

use super::characters::{Invisible, refuse_invisible};

/// A user id: 1 to 128 bytes of UTF-8, without control or invisible characters, and without white space at either end.
/// Ids are compared byte by byte. White space at an end is refused because gateways trim header values and people do
/// not see it, yet `"bob "` and `"bob"` would be two users.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserId(Box<str>);

/// Why a text is not a user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text has more than 128 bytes.
    #[error("has {0} bytes; at most {max} are allowed", max = UserId::MAX_BYTES)]
    TooLong(usize),
    /// The text begins or ends with white space.
    #[error("begins or ends with white space, U+{:04X}; it is allowed only between other characters", *.0 as u32)]
    Untrimmed(char),
    /// The text has a control or invisible character.
    #[error(transparent)]
    Invisible(#[from] Invisible),
}

impl UserId {
    const MAX_BYTES: usize = 128;

    /// Restores an id from the database; it was checked before it was stored.
    pub(crate) fn from_stored(id: String) -> Self {
        Self(id.into())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = UserIdError;

    fn from_str(text: &str) -> Result<Self, UserIdError> {
        if text.is_empty() {
            return Err(UserIdError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(UserIdError::TooLong(text.len()));
        }
        refuse_invisible(text)?;
        let ends = [text.chars().next(), text.chars().next_back()];
        match ends.into_iter().flatten().find(|end| end.is_whitespace()) {
            Some(space) => Err(UserIdError::Untrimmed(space)),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_counted_not_characters() {
        assert!("u".parse::<UserId>().is_ok());
        assert!("auth0|5f7c8ec7 ü".parse::<UserId>().is_ok());
        assert!("ü".repeat(64).parse::<UserId>().is_ok());
        assert_eq!("".parse::<UserId>(), Err(UserIdError::Empty));
        assert_eq!("ü".repeat(65).parse::<UserId>(), Err(UserIdError::TooLong(130)));
    }

    #[test]
    fn control_and_invisible_characters_are_refused() {
        for bad in ['\0', '\n', '\u{85}', '\u{200b}', '\u{202e}', '\u{2028}', '\u{3164}', '\u{feff}'] {
            for text in [format!("{bad}bob"), format!("b{bad}ob"), format!("bob{bad}")] {
                assert_eq!(text.parse::<UserId>(), Err(UserIdError::Invisible(Invisible(bad))), "{text:?}");
            }
        }
        let message = "b\u{200b}ob".parse::<UserId>().unwrap_err().to_string();
        let of_a_name = super::super::TokenName::parse("b\u{200b}ob").unwrap_err().to_string();
        assert_eq!(message, of_a_name);
    }

    #[test]
    fn white_space_is_allowed_only_inside() {
        // All White_Space characters except control characters and line and paragraph separators.
        let spaces = " \u{a0}\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\
                      \u{200a}\u{202f}\u{205f}\u{3000}";
        for space in spaces.chars() {
            for text in [format!("{space}bob"), format!("bob{space}"), space.to_string()] {
                assert_eq!(text.parse::<UserId>(), Err(UserIdError::Untrimmed(space)), "{text:?}");
            }
            assert!(format!("b{space}ob").parse::<UserId>().is_ok(), "{space:?}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_id_is_unchanged_and_needs_no_trimming(text in ".{0,40}") {
            if let Ok(id) = text.parse::<UserId>() {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert_eq!(text.trim(), &text);
            }
        }
    }
}
