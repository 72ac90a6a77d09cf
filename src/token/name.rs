//! The name a user gives a token.

use std::fmt;

use unicode_normalization::UnicodeNormalization as _;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// A name of 3 to 64 characters (Unicode scalar values), trimmed, in Unicode form NFC (UAX #15), without characters
/// that cannot be seen: what looks the same in a list is mostly the same to the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenName(String);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// Fewer than 3 characters.
    #[error("has {0} characters after trimming; at least {min} are needed", min = TokenName::MIN)]
    TooShort(usize),
    /// More than 64 characters.
    #[error("has more than {max} characters after trimming", max = TokenName::MAX)]
    TooLong,
    /// A control character or one that cannot be seen.
    #[error("has the character U+{:04X}, a control or invisible character; none is allowed", *.0 as u32)]
    Invisible(char),
}

impl TokenName {
    const MIN: usize = 3;
    const MAX: usize = 64;
    /// NFC makes a text at most three times as long; more than this cannot come down to 64 characters.
    const MAX_BYTES: usize = 4 * 1024;

    /// Trims and normalizes `text`.
    ///
    /// # Errors
    ///
    /// The first fault found.
    pub fn parse(text: &str) -> Result<Self, NameFault> {
        let text = text.trim();
        if text.len() > Self::MAX_BYTES {
            return Err(NameFault::TooLong);
        }
        if let Some(invisible) = text.chars().find(|character| is_invisible(*character)) {
            return Err(NameFault::Invisible(invisible));
        }
        let name: String = text.nfc().collect();
        match name.chars().count() {
            short if short < Self::MIN => Err(NameFault::TooShort(short)),
            long if long > Self::MAX => Err(NameFault::TooLong),
            _ => Ok(Self(name)),
        }
    }

    /// A name that was checked before it was stored.
    pub(crate) fn from_stored(name: String) -> Self {
        Self(name)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Control and format characters, line and paragraph separators, and the further ones that Unicode calls
/// Default_Ignorable_Code_Point (DerivedCoreProperties.txt) or that are drawn as nothing.
fn is_invisible(character: char) -> bool {
    matches!(
        character.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    ) || matches!(
        character,
        '\u{034f}'                    // combining grapheme joiner
            | '\u{115f}'..='\u{1160}' // Hangul fillers
            | '\u{17b4}'..='\u{17b5}' // Khmer inherent vowels
            | '\u{180b}'..='\u{180f}' // Mongolian variation selectors
            | '\u{2065}'
            | '\u{2800}'              // Braille blank
            | '\u{3164}'              // Hangul filler
            | '\u{fe00}'..='\u{fe0f}' // variation selectors
            | '\u{ffa0}'              // half-width Hangul filler
            | '\u{fff0}'..='\u{fff8}'
            | '\u{e0000}'..='\u{e0fff}' // tags, variation selectors supplement
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String, NameFault> {
        TokenName::parse(text).map(|name| name.0)
    }

    #[test]
    fn names_are_trimmed_and_composed() {
        assert_eq!(parse("  ci bot\n"), Ok("ci bot".into()));
        assert_eq!(parse("cafe\u{301}"), Ok("caf\u{e9}".into()));
        assert_eq!(parse("部署令牌"), Ok("部署令牌".into()));
        assert_eq!(parse("🚀🚀🚀"), Ok("🚀🚀🚀".into()));
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        assert_eq!(parse("äö"), Err(NameFault::TooShort(2)));
        assert_eq!(parse(" ab "), Err(NameFault::TooShort(2)));
        assert_eq!(parse(""), Err(NameFault::TooShort(0)));
        assert!(parse(&"ä".repeat(64)).is_ok());
        assert_eq!(parse(&"ä".repeat(65)), Err(NameFault::TooLong));
        assert_eq!(parse(&"e\u{301}".repeat(64)).map(|name| name.len()), Ok(128));
        assert_eq!(parse(&"x".repeat(1 << 20)), Err(NameFault::TooLong));
    }

    #[test]
    fn what_cannot_be_seen_is_refused() {
        for bad in [
            '\0',
            '\u{7}',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{ad}',
            '\u{200b}',
            '\u{200d}',
            '\u{202e}',
            '\u{2028}',
            '\u{2066}',
            '\u{2800}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{e0041}',
        ] {
            assert_eq!(parse(&format!("a{bad}bc")), Err(NameFault::Invisible(bad)));
        }
    }

    proptest! {
        #[test]
        fn a_name_parses_to_itself_and_keeps_the_rules(text in "\\PC{0,80}") {
            if let Ok(name) = parse(&text) {
                prop_assert_eq!(parse(&name), Ok(name.clone()));
                prop_assert!((3..=64).contains(&name.chars().count()));
                prop_assert_eq!(name.trim(), &name);
                prop_assert!(!name.chars().any(is_invisible));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = parse(&text);
        }
    }
}
