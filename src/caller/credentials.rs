//! The credentials in a request's Authorization header.

use axum::http::{HeaderMap, HeaderName};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;

/// What a request has in its Authorization header.
#[derive(Debug)]
pub(super) enum Credentials<'a> {
    None,
    /// RFC 7617; and if the name or the secret has what may be an escape, once more without: clients of OAuth write both as in
    /// a form (RFC 6749, section 2.3.1), and others as they are.
    Basic(Vec<BasicPair>),
    /// RFC 6750. Not shown by Debug of this type's users: they never print it.
    Bearer(Bearer<'a>),
}

/// A caller's name and secret.
#[derive(Debug)]
pub(super) struct BasicPair {
    pub(super) name: String,
    pub(super) secret: SecretString,
}

/// A credential that Debug does not show.
#[derive(Clone, Copy)]
pub(super) struct Bearer<'a>(pub(super) &'a str);

impl std::fmt::Debug for Bearer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Returns the credentials in a header of a request.
///
/// # Errors
///
/// What is wrong with them: a text without anything of the header.
pub(super) fn credentials<'a>(
    headers: &'a HeaderMap,
    header: &HeaderName,
) -> Result<Credentials<'a>, &'static str> {
    let mut values = headers.get_all(header).iter();
    let Some(value) = values.next() else { return Ok(Credentials::None) };
    if values.next().is_some() {
        return Err("the request has more than one Authorization header");
    }
    let form = "the Authorization header is neither `Bearer …` nor `Basic …`";
    let (scheme, rest) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(form)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        if rest.is_empty() || rest.contains([' ', ',']) {
            return Err("the Authorization header has not exactly one bearer credential");
        }
        Ok(Credentials::Bearer(Bearer(rest)))
    } else if scheme.eq_ignore_ascii_case("basic") {
        let form = "the Basic credentials are not a caller's name, a colon and its secret in base64";
        let text = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(form)?;
        let text = zeroize::Zeroizing::new(text);
        let (name, secret) = text.split_once(':').ok_or(form)?;
        let mut pairs = vec![BasicPair { name: name.to_owned(), secret: secret.into() }];
        if text.contains(['%', '+']) {
            pairs.push(BasicPair { name: unescape(name), secret: unescape(secret).into() });
        }
        Ok(Credentials::Basic(pairs))
    } else {
        Err(form)
    }
}

/// Reads text that is written as in a form.
fn unescape(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use axum::http::header::AUTHORIZATION;

    use super::*;

    fn of(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect()
    }

    fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
        let Ok(basic @ Credentials::Basic(_)) = credentials(headers, &AUTHORIZATION) else {
            panic!("not basic")
        };
        assert!(!format!("{basic:?}").contains("hunter2"));
        let Credentials::Basic(pairs) = basic else { unreachable!() };
        pairs.into_iter().map(|pair| (pair.name, pair.secret.expose_secret().to_owned())).collect()
    }

    #[test]
    fn a_secret_that_is_written_as_in_a_form_is_read_both_ways() {
        let headers = of(&[&format!("Basic {}", STANDARD.encode("c%2Di:a%2Bb+c"))]);
        let expected = [("c%2Di", "a%2Bb+c"), ("c-i", "a+b c")];
        assert_eq!(pairs(&headers), expected.map(|(name, secret)| (name.to_owned(), secret.to_owned())));
    }

    #[test]
    fn both_schemes_are_read_in_any_case_and_nothing_else() {
        assert!(matches!(credentials(&HeaderMap::new(), &AUTHORIZATION), Ok(Credentials::None)));
        assert!(matches!(
            credentials(&of(&["bEARER  abc"]), &AUTHORIZATION),
            Ok(Credentials::Bearer(Bearer("abc")))
        ));
        let headers = of(&["basic Y2k6aHVudGVyMjp4"]);
        assert_eq!(pairs(&headers), [("ci".to_owned(), "hunter2:x".to_owned())]);
        for bad in [
            &["Bearer a", "Bearer a"][..],
            &["Bearer a,Bearer b"],
            &["Bearer "],
            &["Bearer"],
            &["abc"],
            &["Digest abc"],
            &["Basic !"],
            &["Basic Y2k="],
        ] {
            credentials(&of(bad), &AUTHORIZATION).unwrap_err();
        }
    }
}
