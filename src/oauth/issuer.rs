//! The name of an authorization server.

use std::str::FromStr;

use axum::http::Uri;

/// An issuer identifier (RFC 8414, section 2): the URL below which clients reach the HTTP listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    text: String,
    path: String,
}

/// The text is not an issuer identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a URL such as https://tokens.example.com, without query and fragment; http only with a loopback address"
)]
pub struct IssuerError;

impl FromStr for Issuer {
    type Err = IssuerError;

    fn from_str(text: &str) -> Result<Self, IssuerError> {
        let uri: Uri = text.parse().map_err(|_| IssuerError)?;
        let host = uri.host().unwrap_or_default();
        let is_safe = match uri.scheme_str() {
            Some("https") => !host.is_empty(),
            Some("http") => ["localhost", "127.0.0.1", "[::1]"].contains(&host),
            _ => false,
        };
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        // The parser leaves a fragment out.
        if !is_safe || has_user || uri.query().is_some() || text.contains('#') || text.len() > 512 {
            return Err(IssuerError);
        }
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { text: text.to_owned(), path })
    }
}

impl Issuer {
    /// Returns the identifier, as it was configured: clients compare it by its characters.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the path of the identifier, without a slash at the end.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the URL of an endpoint.
    pub(crate) fn endpoint(&self, path: &str) -> String {
        format!("{}{path}", self.text.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_a_url_that_clients_can_trust() {
        for (text, path) in [
            ("https://tokens.example.com", ""),
            ("https://example.com/tokens/", "/tokens"),
            ("https://example.com:8443/a/b", "/a/b"),
            ("http://127.0.0.1:8080", ""),
        ] {
            let issuer: Issuer = text.parse().unwrap();
            assert_eq!((issuer.as_str(), issuer.path()), (text, path));
            assert_eq!(issuer.endpoint("/x"), format!("{}/x", text.trim_end_matches('/')));
        }
        for text in [
            "",
            "tokens.example.com",
            "https://",
            "http://example.com",
            "https://example.com?x",
            "https://example.com#x",
            "https://user@example.com",
            "ftp://example.com",
            "https://exa mple.com",
        ] {
            assert_eq!(text.parse::<Issuer>(), Err(IssuerError), "{text}");
        }
    }
}
