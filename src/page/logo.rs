//! The product's logo.

use std::path::Path;

use axum::{
    body::Bytes,
    extract::State,
    http::{
        HeaderName, StatusCode,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    },
    response::{IntoResponse as _, Response},
};

use super::Page;

/// An image: SVG, PNG or WebP.
#[derive(Clone, Debug)]
pub(crate) struct Logo {
    media_type: &'static str,
    image: Bytes,
}

const MAX_BYTES: usize = 256 * 1024;

impl Logo {
    /// Reads an image.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let image = std::fs::read(file).map_err(|error| error.to_string())?;
        if image.len() > MAX_BYTES {
            return Err(format!("has {} bytes; at most {MAX_BYTES} are allowed", image.len()));
        }
        let media_type = media_type(&image).ok_or("is neither SVG nor PNG nor WebP")?;
        Ok(Self { media_type, image: image.into() })
    }
}

fn media_type(image: &[u8]) -> Option<&'static str> {
    if image.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if image.starts_with(b"RIFF") && image.get(8..12) == Some(b"WEBP") {
        Some("image/webp")
    } else {
        let text = std::str::from_utf8(image).ok()?.trim_start_matches('\u{feff}').trim_start();
        let is_xml = text.starts_with("<svg") || text.starts_with("<?xml") || text.starts_with("<!--");
        (is_xml && text.contains("<svg")).then_some("image/svg+xml")
    }
}

/// An SVG that is opened by itself is a document, which could run scripts: it gets none.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";
const EMBEDDED_BY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Sends the logo.
pub(super) async fn show(State(Page(state)): State<Page>) -> Response {
    let Some(logo) = &state.look.logo else { return StatusCode::NOT_FOUND.into_response() };
    let headers = [
        (CONTENT_TYPE, logo.media_type),
        (CACHE_CONTROL, "public, max-age=300"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (EMBEDDED_BY, "same-origin"),
    ];
    (headers, logo.image.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_what_is_in_it() {
        for (image, expected) in [
            (&b"\x89PNG\r\n\x1a\n..."[..], Some("image/png")),
            (b"RIFF....WEBPVP8 ", Some("image/webp")),
            (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", Some("image/svg+xml")),
            (b"\xef\xbb\xbf\n<?xml version=\"1.0\"?><!-- x --><svg/>", Some("image/svg+xml")),
            (b"<?xml version=\"1.0\"?><html/>", None),
            (b"<html><svg/></html>", None),
            (b"GIF89a", None),
            (b"RIFF", None),
            (b"\xff<svg/>", None),
            (b"", None),
        ] {
            assert_eq!(media_type(image), expected, "{}", image.escape_ascii());
        }
    }

    #[test]
    fn a_large_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("logo.svg");
        std::fs::write(&file, format!("<svg>{}</svg>", " ".repeat(MAX_BYTES))).unwrap();
        assert_eq!(Logo::read(&file).unwrap_err(), "has 262155 bytes; at most 262144 are allowed");
        assert!(Logo::read(&folder.path().join("none")).is_err());
    }
}
