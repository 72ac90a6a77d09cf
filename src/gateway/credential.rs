//! The credential in a request to an API (RFC 6750), as a gateway hands it on.

use axum::http::{HeaderMap, HeaderName, header::AUTHORIZATION};

/// The credential of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Credential<'a> {
    /// There is none.
    None,
    /// There is exactly one.
    One(&'a [u8]),
    /// There are several, or a header has something else.
    Unusable,
}

impl<'a> Credential<'a> {
    /// Finds the credential among the values of the Authorization header and those of the API key header. A token in the query is
    /// not taken: URLs end up in logs.
    pub(crate) fn find(
        authorization: impl Iterator<Item = &'a [u8]>,
        api_key: impl Iterator<Item = &'a [u8]>,
    ) -> Self {
        let mut found = authorization.map(bearer).chain(api_key.map(single));
        match (found.next(), found.next()) {
            (None, _) => Self::None,
            (Some(Some(token)), None) => Self::One(token),
            _ => Self::Unusable,
        }
    }

    /// Finds the credential in the headers of an HTTP request.
    pub(super) fn of(headers: &'a HeaderMap, api_key: Option<&HeaderName>) -> Self {
        let authorization = headers.get_all(AUTHORIZATION).iter();
        let api_key = api_key.into_iter().flat_map(|name| headers.get_all(name));
        Self::find(authorization.map(|value| value.as_bytes()), api_key.map(|value| value.as_bytes()))
    }
}

/// Returns the token of `Bearer …`. The scheme is compared in any case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("bearer".len())?;
    let token = token.strip_prefix(b" ")?;
    scheme.eq_ignore_ascii_case(b"bearer").then_some(token).and_then(single)
}

/// Returns the only token of a value. Several headers arrive from some gateways as one, joined by commas.
fn single(value: &[u8]) -> Option<&[u8]> {
    let token = value.trim_ascii();
    (!token.is_empty() && !token.iter().any(|byte| b", ".contains(byte))).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(headers: &[(&'static str, &str)]) -> String {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        match Credential::of(&headers, Some(&HeaderName::from_static("x-api-key"))) {
            Credential::None => "none".to_owned(),
            Credential::One(token) => String::from_utf8(token.to_vec()).unwrap(),
            Credential::Unusable => "unusable".to_owned(),
        }
    }

    #[test]
    fn exactly_one_token_is_taken() {
        assert_eq!(found(&[]), "none");
        assert_eq!(found(&[("x-other", "abc")]), "none");
        for header in
            [("authorization", "Bearer abc"), ("authorization", "bEARER  abc "), ("x-api-key", " abc ")]
        {
            assert_eq!(found(&[header]), "abc");
        }
        for value in ["Bearer a, Bearer b", "Bearer ", "Bearer", "Basic a", "abc", "", "Bearerabc"] {
            assert_eq!(found(&[("authorization", value)]), "unusable", "{value}");
        }
        for value in ["a, b", "a,b", "Bearer a", ""] {
            assert_eq!(found(&[("x-api-key", value)]), "unusable", "{value}");
        }
        for headers in [
            [("authorization", "Bearer a"), ("authorization", "Bearer a")],
            [("authorization", "Bearer a"), ("x-api-key", "a")],
            [("authorization", "Basic a"), ("x-api-key", "a")],
            [("x-api-key", "a"), ("x-api-key", "a")],
        ] {
            assert_eq!(found(&headers), "unusable", "{headers:?}");
        }
    }
}
