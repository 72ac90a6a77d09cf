//! The bearer token in a request to an API (RFC 6750), as a gateway hands it on.

use axum::http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

/// The bearer token of a request.
pub(super) enum Bearer<'a> {
    /// There is none.
    None,
    /// There is exactly one.
    One(&'a [u8]),
    /// There are several, or the header is something else.
    Unusable,
}

/// Finds the bearer token in the Authorization header. A token in the query is not taken: URLs end up in logs.
pub(super) fn bearer(headers: &HeaderMap) -> Bearer<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Bearer::None,
        (Some(value), None) => token(value).map_or(Bearer::Unusable, Bearer::One),
        (Some(_), Some(_)) => Bearer::Unusable,
    }
}

/// The scheme is compared in any case. Several headers arrive from some gateways as one, joined by commas.
fn token(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("bearer".len())?;
    let token = token.strip_prefix(b" ")?.trim_ascii();
    let is_one = !token.is_empty() && !token.iter().any(|byte| b", ".contains(byte));
    (scheme.eq_ignore_ascii_case(b"bearer") && is_one).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_token_is_taken() {
        let found = |values: &[&str]| {
            let headers: HeaderMap =
                values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect();
            match bearer(&headers) {
                Bearer::None => "none".to_owned(),
                Bearer::One(token) => String::from_utf8(token.to_vec()).unwrap(),
                Bearer::Unusable => "unusable".to_owned(),
            }
        };
        assert_eq!(found(&[]), "none");
        for value in ["Bearer abc", "bEARER  abc "] {
            assert_eq!(found(&[value]), "abc");
        }
        for values in [
            &["Bearer a", "Bearer a"][..],
            &["Bearer a, Bearer b"],
            &["Bearer "],
            &["Bearer"],
            &["Basic a"],
            &["abc"],
            &[""],
            &["Bearerabc"],
        ] {
            assert_eq!(found(values), "unusable", "{values:?}");
        }
    }
}
