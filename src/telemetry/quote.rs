//! Quotes text that a caller chose, in the log and in errors: short, on one line and without control characters.

use std::fmt::Write as _;

/// How much of a text is quoted, in characters.
const MAX_QUOTED: usize = 64;
/// How long an error of a decoder may be, in characters: it may quote what it could not decode.
const MAX_ERROR: usize = 256;

/// Returns the beginning of `text` in quotes, with its control characters and invisible ones escaped, and its length if
/// that is not all.
pub fn quote(text: &str) -> String {
    let (start, is_cut) = start(text, MAX_QUOTED);
    let mut quoted = format!("{start:?}");
    if is_cut {
        // Writing to a string never fails.
        let _ = write!(quoted, "... ({} bytes)", text.len());
    }
    quoted
}

/// Returns the beginning of `error`, which a decoder wrote, with its control characters escaped.
pub fn excerpt(error: &str) -> String {
    let (start, is_cut) = start(error, MAX_ERROR);
    let mut excerpt = String::with_capacity(start.len());
    for character in start.chars() {
        if character.is_control() {
            excerpt.extend(character.escape_default());
        } else {
            excerpt.push(character);
        }
    }
    if is_cut {
        excerpt.push_str("...");
    }
    excerpt
}

fn start(text: &str, characters: usize) -> (&str, bool) {
    match text.char_indices().nth(characters) {
        Some((end, _)) => (&text[..end], true),
        None => (text, false),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_text_is_quoted_whole_and_a_long_one_by_its_beginning() {
        assert_eq!(quote("text/plain"), "\"text/plain\"");
        assert_eq!(quote("a\n\u{1b}[31m\u{202e}"), "\"a\\n\\u{1b}[31m\\u{202e}\"");
        assert_eq!(quote(&"ä".repeat(100)), format!("\"{}\"... (200 bytes)", "ä".repeat(64)));
        assert_eq!(excerpt("expected value at line 1\r\n"), "expected value at line 1\\r\\n");
        assert_eq!(excerpt(&"x".repeat(300)), format!("{}...", "x".repeat(256)));
    }

    proptest! {
        #[test]
        fn no_text_passes_at_length_or_with_control_characters(text: String, times in 1..1000_usize) {
            let text = text.repeat(times);
            for shown in [quote(&text), excerpt(&text)] {
                prop_assert!(!shown.contains(char::is_control), "{shown:?}");
                prop_assert!(shown.len() <= 12 * MAX_ERROR);
            }
        }
    }
}
