//! The pages that may show this one in a frame.

use std::{fmt, str::FromStr};

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
