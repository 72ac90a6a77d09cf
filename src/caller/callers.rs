//! Admits requests: recognises the caller by every scheme, and checks what the policy lets that caller do.

use std::{
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::http::HeaderMap;
use secrecy::ExposeSecret as _;

use super::{
    Caller, CallersError, NotAllowed, Refusal,
    credentials::{BasicPair, Bearer, Credentials, credentials},
    failures::Failures,
    file::{self, CallerTable},
    jwt::{self, Jwts, KeysNeeded},
    policy,
    refusals::Refusals,
    scheme::Outcome,
};
use crate::listener::Peer;

/// Everyone who may call, and what each may do.
#[derive(Debug)]
pub struct Callers {
    /// `None`: nobody is asked who they are.
    listed: Option<Listed>,
    failures: Failures,
    refusals: Refusals,
}

#[derive(Debug)]
struct Listed {
    file: PathBuf,
    client_certificates: bool,
    table: ArcSwap<CallerTable>,
}

/// Whether a request is admitted: known at once, or after the keys of an issuer were read.
pub enum Admission {
    /// It is known.
    Now(Result<Caller, Refusal>),
    /// It has to be awaited.
    Later(Pin<Box<dyn Future<Output = Result<Caller, Refusal>> + Send>>),
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(result) => f.debug_tuple("Now").field(result).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// How often to look whether the callers file has changed.
const FILE_INTERVAL: Duration = Duration::from_secs(2);
/// How often to read the keys of the issuers anew, so that those which an issuer removed are no longer accepted.
const KEYS_INTERVAL: Duration = Duration::from_secs(300);

impl Callers {
    /// Returns callers that are not asked who they are, and may do everything.
    pub fn unchecked() -> Self {
        Self { listed: None, failures: Failures::default(), refusals: Refusals::default() }
    }

    /// Reads the callers file. `client_certificates` is whether the service verifies those.
    ///
    /// # Errors
    ///
    /// See [`CallersError`].
    pub fn open(file: &Path, client_certificates: bool) -> Result<Self, CallersError> {
        let table = file::read(file, client_certificates, None)?;
        let listed =
            Listed { file: file.to_owned(), client_certificates, table: ArcSwap::from_pointee(table) };
        Ok(Self { listed: Some(listed), ..Self::unchecked() })
    }

    /// Returns how many requests were refused since the start.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Admits or refuses a request for an endpoint of the policy.
    pub fn admit(self: &Arc<Self>, endpoint: &str, headers: &HeaderMap, peer: Option<&Peer>) -> Admission {
        let Some(listed) = &self.listed else { return Admission::Now(Ok(Caller::unchecked())) };
        let access = policy::access(endpoint);
        if access == Some(policy::Access::Everyone) {
            return Admission::Now(Ok(Caller::unchecked()));
        }
        let table = listed.table.load();
        let certificate = table.certificates.authenticate(peer.map_or(&[], |peer| &peer.names));
        let decide = move |header: Outcome| {
            let caller = both(certificate, header)?;
            match access {
                Some(access) if caller.may(access) => Ok(caller),
                _ => Err(Refusal::NotAllowed(NotAllowed::Call)),
            }
        };
        let credentials = match credentials(headers, &policy::credential_header(endpoint)) {
            Ok(credentials) => credentials,
            Err(reason) => return self.now(endpoint, peer, decide(Outcome::Failed(reason))),
        };
        let outcome = match credentials {
            Credentials::None => Outcome::NotRequested,
            Credentials::Basic(pairs) => {
                let outcomes = pairs.iter().map(|BasicPair { name, secret }| {
                    table.secrets.authenticate(Some(name), secret.expose_secret().as_bytes())
                });
                outcomes
                    .reduce(|raw, decoded| match raw {
                        Outcome::Failed(_) => decoded,
                        raw => raw,
                    })
                    .unwrap_or(Outcome::NotRequested)
            }
            Credentials::Bearer(Bearer(text)) if jwt::is_jwt(text) => {
                match self.verify(&table.jwts, text, peer) {
                    Ok(outcome) => outcome,
                    Err(needed) => {
                        let (this, table, jwt) = (Arc::clone(self), Arc::clone(&table), text.to_owned());
                        let (endpoint, peer) = (endpoint.to_owned(), peer.cloned());
                        return Admission::Later(Box::pin(async move {
                            let outcome = table.jwts.verify_with_new_keys(&jwt, needed).await;
                            this.noted(&endpoint, peer.as_ref(), decide(outcome))
                        }));
                    }
                }
            }
            Credentials::Bearer(Bearer(text)) => table.secrets.authenticate(None, text.as_bytes()),
        };
        self.now(endpoint, peer, decide(outcome))
    }

    /// Recognises the user whose JWT a proxy has added to a request.
    ///
    /// # Errors
    ///
    /// The JWT is not good, or not a user's; or it cannot be known.
    pub async fn user(&self, jwt: &str) -> Result<Caller, Refusal> {
        const NO_USER: Refusal = Refusal::BadCredentials("not a user's JWT");
        let Some(listed) = &self.listed else { return Err(NO_USER) };
        let table = listed.table.load_full();
        let outcome = match self.verify(&table.jwts, jwt, None) {
            Ok(outcome) => outcome,
            Err(needed) => table.jwts.verify_with_new_keys(jwt, needed).await,
        };
        match outcome {
            Outcome::Authenticated(caller) if caller.own_user().is_some() => Ok(caller),
            Outcome::Authenticated(_) | Outcome::NotRequested => Err(NO_USER),
            Outcome::Failed(reason) => Err(Refusal::BadCredentials(reason)),
            Outcome::Unavailable => Err(Refusal::Unavailable),
        }
    }

    /// Verifies a JWT, unless its sender has failed too often: signatures are the only costly credentials.
    fn verify(&self, jwts: &Jwts, jwt: &str, peer: Option<&Peer>) -> Result<Outcome, KeysNeeded> {
        match jwts.remembered(jwt) {
            Some(outcome) => Ok(outcome),
            None if peer.is_some_and(|peer| self.failures.are_too_many(peer.addr.ip())) => {
                Ok(Outcome::Failed("too many credentials of this address were wrong"))
            }
            None => jwts.verify(jwt),
        }
    }

    fn now(&self, endpoint: &str, peer: Option<&Peer>, result: Result<Caller, Refusal>) -> Admission {
        Admission::Now(self.noted(endpoint, peer, result))
    }

    /// Counts and logs a refusal.
    fn noted(
        &self,
        endpoint: &str,
        peer: Option<&Peer>,
        result: Result<Caller, Refusal>,
    ) -> Result<Caller, Refusal> {
        let mut refusal = match result {
            Ok(caller) => return Ok(caller),
            Err(refusal) => refusal,
        };
        if matches!(refusal, Refusal::BadCredentials(_))
            && let Some(peer) = peer
            && let Some(wait) = self.failures.note(peer.addr.ip())
        {
            refusal = Refusal::TooManyFailures(wait);
        }
        // Only names of the policy are logged: callers could invent any number of others.
        let endpoint =
            policy::POLICY.iter().find(|entry| entry.name == endpoint).map_or("_OTHER", |entry| entry.name);
        self.refusals.note(endpoint, peer, &refusal);
        Err(refusal)
    }

    /// Reads the file and the keys of the issuers anew when they change, until it is dropped. A wrong file is refused, and
    /// the callers stay as they were.
    pub async fn follow(self: Arc<Self>) {
        let Some(listed) = &self.listed else { return };
        let mut seen = fingerprint(&listed.file).await;
        let mut ticks = tokio::time::interval(FILE_INTERVAL);
        let mut until_keys = Duration::ZERO;
        loop {
            ticks.tick().await;
            let now = fingerprint(&listed.file).await;
            if now != seen {
                seen = now;
                listed.reload();
                until_keys = Duration::ZERO;
            }
            if until_keys.is_zero() {
                until_keys = KEYS_INTERVAL;
                let table = listed.table.load_full();
                futures_util::future::join_all(table.jwts.key_sets().map(|keys| keys.refresh())).await;
            }
            until_keys = until_keys.saturating_sub(FILE_INTERVAL);
        }
    }
}

impl Listed {
    fn reload(&self) {
        let file = self.file.display();
        match file::read(&self.file, self.client_certificates, Some(&self.table.load())) {
            Ok(table) => {
                self.table.store(Arc::new(table));
                tracing::info!(%file, "the callers file was read again");
            }
            Err(error) => {
                tracing::error!(%file, %error, "the callers file is wrong; the callers stay as they were");
            }
        }
    }
}

/// Returns something that differs when the file's content does.
async fn fingerprint(file: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(file).await.ok()
}

/// Returns the caller that two credentials agree on.
fn both(certificate: Outcome, header: Outcome) -> Result<Caller, Refusal> {
    match (certificate, header) {
        (Outcome::Failed(reason), _) | (_, Outcome::Failed(reason)) => Err(Refusal::BadCredentials(reason)),
        (Outcome::Unavailable, _) | (_, Outcome::Unavailable) => Err(Refusal::Unavailable),
        (Outcome::Authenticated(one), Outcome::Authenticated(other)) if !one.is(&other) => {
            Err(Refusal::BadCredentials(
                "the client certificate and the Authorization header are of different callers",
            ))
        }
        (Outcome::Authenticated(caller), _) | (_, Outcome::Authenticated(caller)) => Ok(caller),
        (Outcome::NotRequested, Outcome::NotRequested) => Err(Refusal::NoCredentials),
    }
}
