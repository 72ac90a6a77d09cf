//! How the page looks: its style and script, and what a product can change of them.

use std::{fmt, str::FromStr};

use axum::{
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
};

const CSS: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Browsers ask again after this time.
const CACHE: &str = "public, max-age=300";

pub(super) async fn css() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, CACHE)], CSS).into_response()
}

pub(super) async fn script() -> Response {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8"), (CACHE_CONTROL, CACHE)], SCRIPT).into_response()
}

/// The colour of buttons and links: `#rrggbb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accent(String);

/// The text is not a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a colour such as #2456c9, dark enough for white text on it (contrast of 4.5, WCAG 2.2)")]
pub struct AccentError;

impl FromStr for Accent {
    type Err = AccentError;

    fn from_str(text: &str) -> Result<Self, AccentError> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6).ok_or(AccentError)?;
        let channel = |index: usize| u8::from_str_radix(digits.get(index..index + 2)?, 16).ok();
        let (Some(red), Some(green), Some(blue)) = (channel(0), channel(2), channel(4)) else {
            return Err(AccentError);
        };
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            || contrast_with_white([red, green, blue]) < 4.5
        {
            return Err(AccentError);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Returns the contrast ratio (WCAG 2.2).
fn contrast_with_white(channels: [u8; 3]) -> f64 {
    let [red, green, blue] = channels.map(|channel| {
        let part = f64::from(channel) / 255.0;
        if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    });
    1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
}

impl fmt::Display for Accent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The origins whose pages may show this one in a frame; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameAncestors(Vec<String>);

/// The text is not a list of origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be origins such as https://app.example.com, separated by commas")]
pub struct FrameAncestorsError;

impl FromStr for FrameAncestors {
    type Err = FrameAncestorsError;

    fn from_str(text: &str) -> Result<Self, FrameAncestorsError> {
        let origin = |text: &str| {
            let host = text.strip_prefix("https://").ok_or(FrameAncestorsError)?;
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
            let is_host = !host.is_empty() && host.bytes().all(fits);
            is_host.then(|| text.to_owned()).ok_or(FrameAncestorsError)
        };
        text.split(',').map(|text| origin(text.trim())).collect::<Result<_, _>>().map(Self)
    }
}

impl FrameAncestors {
    /// Whether the page is shown in frames of other sites, where browsers send only cookies that allow it.
    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }
}

impl fmt::Display for FrameAncestors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.any() { f.write_str(&self.0.join(" ")) } else { f.write_str("'none'") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_has_enough_contrast() {
        for good in ["#2456c9", "#000000", "#B00020"] {
            assert_eq!(good.parse::<Accent>().unwrap().to_string(), good.to_ascii_lowercase());
        }
        for bad in ["", "2456c9", "#2456c", "#2456c9ff", "#ffffff", "#ffcc00", "#+1+1+1", "red", "#é456c"] {
            assert_eq!(bad.parse::<Accent>(), Err(AccentError), "{bad}");
        }
    }

    #[test]
    fn frame_ancestors_are_origins() {
        assert_eq!(FrameAncestors::default().to_string(), "'none'");
        let origins: FrameAncestors = "https://a.example.com, https://b.example.com:8443".parse().unwrap();
        assert_eq!(origins.to_string(), "https://a.example.com https://b.example.com:8443");
        for bad in [
            "",
            "*",
            "http://a.example.com",
            "https://",
            "https://a.example.com/x",
            "https://a; script-src *",
        ] {
            assert_eq!(bad.parse::<FrameAncestors>(), Err(FrameAncestorsError), "{bad}");
        }
    }
}
