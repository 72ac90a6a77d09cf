//! Callers by their client certificate: a URI (SPIFFE ID or another) or DNS name among its subject alternative names.
//! The TLS handshake has verified the certificate.

use std::{collections::HashMap, sync::Arc};

use super::{Caller, identity::ListedCaller, scheme::Outcome};
use crate::listener::PeerName;

/// The callers by the names in their certificates.
#[derive(Debug, Default)]
pub(super) struct ClientCertificates {
    uris: HashMap<String, Arc<ListedCaller>>,
    dns: HashMap<String, Arc<ListedCaller>>,
}

impl ClientCertificates {
    /// Adds a name: a URI if it has `://`, else a DNS name, whose case does not matter.
    ///
    /// # Errors
    ///
    /// The name can be in no certificate, or is another caller's.
    pub(super) fn insert(&mut self, name: &str, caller: &Arc<ListedCaller>) -> Result<(), String> {
        let earlier = if name.contains("://") {
            check_uri(name)?;
            self.uris.insert(name.to_owned(), Arc::clone(caller))
        } else {
            check_dns(name)?;
            self.dns.insert(name.to_ascii_lowercase(), Arc::clone(caller))
        };
        match earlier {
            Some(other) => Err(format!("{name:?} already recognises {:?}", other.name)),
            None => Ok(()),
        }
    }

    /// A certificate that names no caller is not a failed credential: in a service mesh everyone has a certificate.
    pub(super) fn authenticate(&self, names: &[PeerName]) -> Outcome {
        let mut found: Option<&Arc<ListedCaller>> = None;
        for name in names {
            let caller = match name {
                PeerName::Uri(uri) => self.uris.get(&**uri),
                PeerName::Dns(name) => self.dns.get(name.to_ascii_lowercase().as_str()),
            };
            match (found, caller) {
                (Some(one), Some(other)) if one.name != other.name => {
                    return Outcome::Failed("the client certificate has the names of more than one caller");
                }
                (None, Some(caller)) => found = Some(caller),
                _ => {}
            }
        }
        found.map_or(Outcome::NotRequested, |caller| Outcome::Authenticated(Caller::listed(caller)))
    }
}

/// A SPIFFE ID has a trust domain and neither query nor fragment nor port (SPIFFE-ID, section 2).
fn check_uri(uri: &str) -> Result<(), String> {
    let (scheme, rest) = uri.split_once("://").unwrap_or_default();
    let is_scheme = scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let is_text = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
    let host = rest.split('/').next().unwrap_or_default();
    let is_spiffe = scheme != "spiffe" || (!host.is_empty() && !rest.contains(['?', '#', ':', '@']));
    if is_scheme && is_text && is_spiffe {
        Ok(())
    } else {
        Err(format!("{uri:?} is not a URI such as spiffe://example.org/ns/prod/sa/gateway"))
    }
}

fn check_dns(name: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() <= 253 && name.split('.').all(is_label) {
        Ok(())
    } else {
        Err(format!("{name:?} is neither a DNS name such as gateway.example.org nor a URI"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str) -> Arc<ListedCaller> {
        Arc::new(ListedCaller { name: name.into(), roles: Vec::new(), users: None, scopes: None })
    }

    fn callers() -> ClientCertificates {
        let mut callers = ClientCertificates::default();
        callers.insert("spiffe://example.org/a", &caller("a")).unwrap();
        callers.insert("b.Example.org", &caller("b")).unwrap();
        callers
    }

    fn actor(names: &[PeerName]) -> String {
        match callers().authenticate(names) {
            Outcome::Authenticated(caller) => caller.actor().into_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_name_is_compared_whole_and_with_its_kind() {
        let uri = |text: &str| PeerName::Uri(text.into());
        let dns = |text: &str| PeerName::Dns(text.into());
        assert_eq!(actor(&[uri("spiffe://example.org/a")]), "caller:a");
        assert_eq!(actor(&[dns("other.example.org"), dns("B.example.ORG")]), "caller:b");
        for names in
            [&[][..], &[uri("spiffe://example.org/a/b")], &[uri("b.example.org")], &[dns("x.b.example.org")]]
        {
            assert_eq!(actor(names), "NotRequested", "{names:?}");
        }
        let both = actor(&[uri("spiffe://example.org/a"), dns("b.example.org")]);
        assert!(both.contains("more than one caller"), "{both}");
    }

    #[test]
    fn a_name_that_is_in_no_certificate_or_twice_in_the_file_is_refused() {
        for bad in [
            "",
            "spiffe://",
            "spiffe:///path",
            "spiffe://a:1/b",
            "spiffe://a/b?c",
            "://a",
            "1x://a",
            "a b",
            "*.example.org",
            "a..b",
        ] {
            callers().insert(bad, &caller("c")).unwrap_err();
        }
        for twice in ["spiffe://example.org/a", "B.EXAMPLE.org"] {
            let error = callers().insert(twice, &caller("c")).unwrap_err();
            assert!(error.contains("already recognises"), "{error}");
        }
    }
}
