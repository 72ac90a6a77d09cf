//! The callers file (TOML): who may call, how each is recognised, and what each may do.
//!
//! ```toml
//! # Users may call with the JWTs of this issuer, for their own tokens.
//! [[issuer]]
//! issuer = "https://id.example.com"
//! audiences = ["latchkey"]
//! jwks_url = "https://id.example.com/.well-known/jwks.json"
//! user_claim = "sub"
//!
//! [[caller]]
//! name = "api-gateway"
//! roles = ["validator"]
//! certificates = ["spiffe://example.com/ns/prod/sa/gateway"]
//!
//! [[caller]]
//! name = "console"
//! roles = ["manager"]
//! jwts = [{ issuer = "https://id.example.com", subject = "console-backend" }]
//! scopes = ["read", "write"]
//!
//! [[caller]]
//! name = "identity"
//! roles = ["publisher"]
//! secret_hashes = ["sha256:…"]
//! ```

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::http::Uri;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::{
    client_certificate::ClientCertificates,
    identity::ListedCaller,
    jwks::{JwksSource, KeySet},
    jwt::{Issuer, JwtRule, Jwts},
    policy::Role,
    shared_secret::SharedSecrets,
};
use crate::{
    outgoing::http_client,
    token::{Scopes, UserId},
};

/// Maximum size of the file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Everyone who may call.
#[derive(Debug)]
pub(super) struct CallerTable {
    pub(super) certificates: ClientCertificates,
    pub(super) jwts: Jwts,
    pub(super) secrets: SharedSecrets,
}

/// The callers file cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum CallersError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It has more than 1 MB.
    #[error("has more than 1 MB")]
    TooLarge,
    /// Something in it is wrong.
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    issuer: Vec<Spanned<IssuerEntry>>,
    #[serde(default)]
    caller: Vec<Spanned<CallerEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerEntry {
    issuer: String,
    audiences: Vec<String>,
    jwks_url: Option<String>,
    jwks_file: Option<PathBuf>,
    user_claim: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallerEntry {
    name: String,
    roles: Vec<Role>,
    #[serde(default)]
    certificates: Vec<String>,
    #[serde(default)]
    jwts: Vec<JwtEntry>,
    #[serde(default, deserialize_with = "hashes")]
    secret_hashes: Vec<String>,
    users: Option<Vec<String>>,
    scopes: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JwtEntry {
    issuer: String,
    /// The value of the claim `sub`.
    subject: Option<String>,
    claim: Option<String>,
    value: Option<String>,
}

/// Reads a list of strings. The error does not quote what stands there instead, which may be a secret.
fn hashes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let value = toml::Value::deserialize(deserializer)?;
    value.try_into().map_err(|_| serde::de::Error::custom("secret_hashes must be a list of strings"))
}

/// Reads the file. The keys of issuers that `earlier` has too are taken over from there: their source may be out of reach
/// now. `client_certificates` is whether the service verifies those.
///
/// # Errors
///
/// See [`CallersError`].
pub(super) fn read(
    file: &Path,
    client_certificates: bool,
    earlier: Option<&CallerTable>,
) -> Result<CallerTable, CallersError> {
    if fs::metadata(file)?.len() > MAX_BYTES {
        return Err(CallersError::TooLarge);
    }
    parse(&fs::read_to_string(file)?, client_certificates, earlier)
}

fn parse(
    text: &str,
    client_certificates: bool,
    earlier: Option<&CallerTable>,
) -> Result<CallerTable, CallersError> {
    let wrong = |span: Option<Range<usize>>, reason: String| {
        let start = span.map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        CallersError::Line { line, reason }
    };
    let parsed: File =
        toml::from_str(text).map_err(|error| wrong(error.span(), error.message().to_owned()))?;
    if parsed.caller.is_empty() && parsed.issuer.is_empty() {
        return Err(wrong(
            None,
            "there is neither a [[caller]] nor an [[issuer]]; nobody could call".to_owned(),
        ));
    }
    let mut issuers = Vec::new();
    for entry in parsed.issuer {
        let (span, entry) = (entry.span(), entry.into_inner());
        let issuer = issuer(entry, &issuers, earlier).map_err(|reason| wrong(Some(span), reason))?;
        issuers.push(issuer);
    }
    let mut table = Unfinished { issuers, client_certificates, ..Unfinished::default() };
    for entry in parsed.caller {
        let (span, entry) = (entry.span(), entry.into_inner());
        table.add(entry).map_err(|reason| wrong(Some(span), reason))?;
    }
    if let Some(unused) =
        table.issuers.iter().find(|issuer| issuer.rules.is_empty() && issuer.user_claim.is_none())
    {
        let reason = format!(
            "the issuer {:?} recognises nobody: no caller names it, and it has no user_claim",
            unused.name
        );
        return Err(wrong(None, reason));
    }
    Ok(CallerTable {
        certificates: table.certificates,
        jwts: Jwts::new(table.issuers),
        secrets: table.secrets,
    })
}

fn issuer(entry: IssuerEntry, others: &[Issuer], earlier: Option<&CallerTable>) -> Result<Issuer, String> {
    let name = entry.issuer;
    if name.is_empty() || others.iter().any(|other| other.name == name) {
        return Err(format!("issuer: {name:?} is empty or appears twice"));
    }
    if entry.audiences.is_empty() || entry.audiences.iter().any(String::is_empty) {
        return Err(
            "audiences: name at least one; otherwise JWTs for other services would be accepted".to_owned()
        );
    }
    if entry.user_claim.as_deref() == Some("") {
        return Err("user_claim: must be the name of a claim, such as sub".to_owned());
    }
    let source = match (entry.jwks_url, entry.jwks_file) {
        (Some(url), None) => JwksSource::Url(check_url(&url)?),
        (None, Some(file)) => JwksSource::File(file),
        _ => return Err("either jwks_url or jwks_file is needed".to_owned()),
    };
    let known = earlier.and_then(|table| table.jwts.key_sets().find(|keys| *keys.source() == source));
    let keys = match known {
        Some(keys) => Arc::clone(keys),
        None => {
            Arc::new(KeySet::new(source, http_client().map_err(|error| format!("no HTTP client: {error}"))?))
        }
    };
    Ok(Issuer { name, audiences: entry.audiences, keys, user_claim: entry.user_claim, rules: Vec::new() })
}

/// Keys that arrive unencrypted could be anyone's, so plain HTTP is for this machine alone.
fn check_url(url: &str) -> Result<Uri, String> {
    let parsed: Uri = url.parse().map_err(|_| "jwks_url: is not a URL".to_owned())?;
    let is_local = matches!(parsed.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match parsed.scheme_str() {
        Some("https") => Ok(parsed),
        Some("http") if is_local => Ok(parsed),
        _ => Err("jwks_url: must begin with https://; http:// is allowed for localhost".to_owned()),
    }
}

#[derive(Default)]
struct Unfinished {
    issuers: Vec<Issuer>,
    certificates: ClientCertificates,
    secrets: SharedSecrets,
    names: BTreeSet<String>,
    client_certificates: bool,
}

impl Unfinished {
    fn add(&mut self, entry: CallerEntry) -> Result<(), String> {
        let is_name = |name: &str| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !is_name(&entry.name) {
            return Err("name: must be 1 to 64 characters of a-z, A-Z, 0-9, '-', '_' and '.'".to_owned());
        }
        if !self.names.insert(entry.name.clone()) {
            return Err(format!("name: {:?} appears twice", entry.name));
        }
        if entry.roles.is_empty() {
            return Err(format!("roles: {:?} has none, so it could do nothing", entry.name));
        }
        if entry.certificates.is_empty() && entry.jwts.is_empty() && entry.secret_hashes.is_empty() {
            let reason = "can match nothing: it has no certificates, jwts or secret_hashes";
            return Err(format!("{:?} {reason}", entry.name));
        }
        if !entry.certificates.is_empty() && !self.client_certificates {
            let reason = "certificates: can match nothing, since the service verifies no client certificates; set LATCHKEY_TLS_CLIENT_CA";
            return Err(reason.to_owned());
        }
        let caller = Arc::new(ListedCaller {
            users: entry.users.map(users).transpose()?,
            scopes: entry.scopes.map(|scopes| scopes_of(&scopes)).transpose()?,
            name: entry.name,
            roles: entry.roles,
        });
        for name in &entry.certificates {
            self.certificates.insert(name, &caller).map_err(|reason| format!("certificates: {reason}"))?;
        }
        for hash in &entry.secret_hashes {
            self.secrets.insert(hash, &caller).map_err(|reason| format!("secret_hashes: {reason}"))?;
        }
        for jwt in entry.jwts {
            self.add_jwt(jwt, &caller)?;
        }
        Ok(())
    }

    fn add_jwt(&mut self, entry: JwtEntry, caller: &Arc<ListedCaller>) -> Result<(), String> {
        let (claim, value) = match (entry.subject, entry.claim, entry.value) {
            (Some(subject), None, None) => ("sub".to_owned(), subject),
            (None, Some(claim), Some(value)) => (claim, value),
            _ => return Err("jwts: name either subject, or claim and value".to_owned()),
        };
        let Some(issuer) = self.issuers.iter_mut().find(|issuer| issuer.name == entry.issuer) else {
            return Err(format!("jwts: can match nothing, since no [[issuer]] is {:?}", entry.issuer));
        };
        if claim.is_empty() || value.is_empty() {
            return Err("jwts: the claim and its value must not be empty".to_owned());
        }
        if let Some(other) = issuer.rules.iter().find(|rule| rule.claim == claim && rule.value == value) {
            return Err(format!("jwts: {claim} {value:?} already recognises {:?}", other.caller.name));
        }
        issuer.rules.push(JwtRule { claim, value, caller: Arc::clone(caller) });
        Ok(())
    }
}

fn users(users: Vec<String>) -> Result<BTreeSet<String>, String> {
    if users.is_empty() {
        return Err("users: is empty; leave it out for all users".to_owned());
    }
    for user in &users {
        user.parse::<UserId>().map_err(|error| format!("users: {user:?} {error}"))?;
    }
    Ok(users.into_iter().collect())
}

fn scopes_of(scopes: &[String]) -> Result<Scopes, String> {
    if scopes.is_empty() {
        return Err("scopes: is empty; leave it out for all scopes".to_owned());
    }
    Scopes::parse(scopes).map_err(|error| format!("scopes: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "[[issuer]]\nissuer = \"i\"\naudiences = [\"a\"]\njwks_file = \"keys.json\"\n";

    fn error(text: &str) -> String {
        parse(text, false, None).unwrap_err().to_string()
    }

    #[test]
    fn a_rule_that_is_wrong_or_can_match_nothing_is_named_with_its_line() {
        let hash = "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let caller =
            |fields: &str| format!("\n\n[[caller]]\nname = \"c\"\nroles = [\"manager\"]\n{fields}\n");
        for (text, expected) in [
            (String::new(), "neither a [[caller]] nor an [[issuer]]"),
            ("\n\n= 5".into(), "line 3: "),
            ("[[callers]]".into(), "unknown field `callers`"),
            (caller(""), "line 3: \"c\" can match nothing"),
            (caller("certificates = [\"spiffe://a/b\"]"), "LATCHKEY_TLS_CLIENT_CA"),
            (caller("jwts = [{ issuer = \"i\", subject = \"s\" }]"), "no [[issuer]] is \"i\""),
            (caller("secret_hashes = [\"hunter2\"]"), "secret_hashes: must be a hash"),
            (caller("secret_hashes = \"hunter2\""), "must be a list of strings"),
            (caller("color = 1"), "line 6: unknown field `color`"),
            (
                format!("[[caller]]\nname = \"c\"\nroles = []\nsecret_hashes = [\"{hash}\"]"),
                "roles: \"c\" has none",
            ),
            ("[[caller]]\nname = \"c\"\nroles = [\"root\"]".into(), "unknown variant `root`"),
            (caller(&format!("secret_hashes = [\"{hash}\"]\nusers = []")), "users: is empty"),
            (caller(&format!("secret_hashes = [\"{hash}\"]\nscopes = [\"A B\"]")), "scopes: "),
            (caller(&format!("secret_hashes = [\"{hash}\"]")).repeat(2), "name: \"c\" appears twice"),
            (ISSUER.into(), "the issuer \"i\" recognises nobody"),
            (ISSUER.replace("[\"a\"]", "[]"), "audiences: name at least one"),
            (
                ISSUER.replace("jwks_file = \"keys.json\"", "jwks_url = \"http://example.com/k\""),
                "must begin with https://",
            ),
            (ISSUER.replace("jwks_file", "keys"), "unknown field `keys`"),
        ] {
            let error = error(&text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.starts_with("line ") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn each_way_of_recognising_a_caller_is_read() {
        let text = format!(
            "{ISSUER}user_claim = \"sub\"\n[[caller]]\nname = \"c\"\nroles = [\"validator\", \"admin\"]\nusers = [\"alice\"]\n\
             scopes = [\"read\"]\ncertificates = [\"spiffe://a/b\", \"c.example.com\"]\n\
             jwts = [{{ issuer = \"i\", subject = \"s\" }}, {{ issuer = \"i\", claim = \"azp\", value = \"x\" }}]\n\
             secret_hashes = [\"sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\"]"
        );
        let table = parse(&text, true, None).unwrap();
        assert_eq!(table.jwts.key_sets().count(), 1);
        let again = parse(&text, true, Some(&table)).unwrap();
        let keys = |table: &CallerTable| Arc::as_ptr(table.jwts.key_sets().next().unwrap());
        assert_eq!(keys(&again), keys(&table), "the keys are kept");
    }
}
