//! The characters that names and user ids may not contain.

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory},
};

/// The text has this control or invisible character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("has the character U+{:04X}, a control or invisible character; none is allowed", *.0 as u32)]
pub struct Invisible(pub char);

/// Checks that every character of `text` is visible. Otherwise two texts that look the same could be two names, or two
/// users.
///
/// # Errors
///
/// The first control or invisible character.
pub(super) fn refuse_invisible(text: &str) -> Result<(), Invisible> {
    text.chars().find(|character| is_invisible(*character)).map_or(Ok(()), |found| Err(Invisible(found)))
}

/// Not Default_Ignorable_Code_Point, although its glyph is empty.
const BRAILLE_BLANK: char = '\u{2800}';

/// Returns true for control and format characters, line and paragraph separators, and characters that have no glyph.
fn is_invisible(character: char) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new().get(character);
    matches!(
        category,
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    ) || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(character)
        || character == BRAILLE_BLANK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_invisible_characters_are_refused() {
        let controls = "\0\u{7}\u{1b}\u{7f}\u{85}";
        let formats = "\u{ad}\u{200b}\u{200d}\u{202e}\u{2066}\u{feff}\u{e0041}";
        let separators = "\u{2028}\u{2029}";
        let ignorable =
            "\u{34f}\u{115f}\u{1160}\u{17b4}\u{180b}\u{2065}\u{3164}\u{fe0f}\u{ffa0}\u{fff0}\u{e0fff}";
        for bad in [controls, formats, separators, ignorable, "\u{2800}"].concat().chars() {
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
