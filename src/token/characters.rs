//! Which characters names and user ids may not contain.

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// A text contains this control or invisible character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("has the character U+{:04X}, a control or invisible character; none is allowed", *.0 as u32)]
pub struct Invisible(pub char);

/// Checks that every character of `text` can be seen. Two texts that look the same would otherwise be two names, or two
/// users.
///
/// # Errors
///
/// The first control or invisible character.
pub(super) fn refuse_invisible(text: &str) -> Result<(), Invisible> {
    text.chars().find(|character| is_invisible(*character)).map_or(Ok(()), |found| Err(Invisible(found)))
}

/// Returns true for control and format characters, line and paragraph separators, and the characters that Unicode calls
/// Default_Ignorable_Code_Point (DerivedCoreProperties.txt) or that have an empty glyph.
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
    use super::*;

    #[test]
    fn control_and_invisible_characters_are_refused() {
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
            assert_eq!(refuse_invisible(&format!("a{bad}bc")), Err(Invisible(bad)));
        }
    }

    #[test]
    fn visible_characters_and_spaces_are_allowed() {
        for good in ["auth0|5f7c8ec7 ü", "部署令牌", "🚀", "a\u{a0}b", "e\u{301}"] {
            assert_eq!(refuse_invisible(good), Ok(()), "{good:?}");
        }
    }
}
