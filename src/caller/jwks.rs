//! The public keys of an issuer of JWTs: a JSON Web Key Set (RFC 7517) from a URL or a file.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    body::Body,
    http::{Request, Uri},
};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::{sync::Mutex, time::Instant};

use crate::outgoing::{HttpClient, MAX_BYTES, fetch};

/// Maximum number of keys in a key set.
const MAX_KEYS: usize = 100;
/// A key that is not known has the set fetched anew, but not more often than this: callers can invent key ids.
const REFETCH_PAUSE: Duration = Duration::from_secs(10);
/// Fewer bits than this are not safe for RSA (NIST SP 800-131A).
const MIN_RSA_BITS: usize = 2_048;

/// Where a key set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JwksSource {
    Url(Uri),
    File(PathBuf),
}

/// The keys of one issuer. They stay as they are while their source cannot be read.
#[derive(Debug)]
pub(super) struct KeySet {
    source: JwksSource,
    client: HttpClient,
    keys: ArcSwap<Keys>,
    /// When the source was last read, or that was last tried. Held by the one task that reads it.
    tried: Mutex<Option<Instant>>,
}

/// The keys as they were when the source was last read.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// A digest of the source's content, all zeros before it was read: a JWT that was verified by other keys is verified
    /// again.
    pub(super) version: [u8; 32],
    keys: Vec<Key>,
}

#[derive(Debug)]
pub(super) struct Key {
    id: Option<String>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) decoding: DecodingKey,
}

impl Keys {
    pub(super) fn were_read(&self) -> bool {
        self.version != [0; 32]
    }

    /// Returns the key with this id; without an id, the only key.
    pub(super) fn find(&self, id: Option<&str>) -> Option<&Key> {
        match id {
            Some(id) => self.keys.iter().find(|key| key.id.as_deref() == Some(id)),
            None => self.keys.first().filter(|_| self.keys.len() == 1),
        }
    }
}

impl KeySet {
    pub(super) fn new(source: JwksSource, client: HttpClient) -> Self {
        Self { source, client, keys: ArcSwap::default(), tried: Mutex::new(None) }
    }

    pub(super) fn source(&self) -> &JwksSource {
        &self.source
    }

    pub(super) fn keys(&self) -> arc_swap::Guard<Arc<Keys>> {
        self.keys.load()
    }

    /// Reads the source, unless that was tried less than [`REFETCH_PAUSE`] ago. Those who call it meanwhile wait for the
    /// same reading.
    pub(super) async fn refetch(&self) {
        let mut tried = self.tried.lock().await;
        if tried.is_none_or(|at| at.elapsed() >= REFETCH_PAUSE) {
            self.read(&mut tried).await;
        }
    }

    /// Reads the source, so that keys which the issuer has removed are no longer accepted.
    pub(super) async fn refresh(&self) {
        let mut tried = self.tried.lock().await;
        self.read(&mut tried).await;
    }

    async fn read(&self, tried: &mut Option<Instant>) {
        *tried = Some(Instant::now());
        let content = match &self.source {
            JwksSource::Url(url) => {
                let mut request = Request::new(Body::empty());
                *request.uri_mut() = url.clone();
                fetch(&self.client, request).await
            }
            JwksSource::File(file) => tokio::fs::read(file).await.map_err(|error| error.to_string()),
        };
        match content.and_then(|content| parse(&content)) {
            Ok(keys) if keys.version == self.keys.load().version => {}
            Ok(keys) => {
                tracing::info!(source = %self.source, keys = keys.keys.len(), "the keys of an issuer were read");
                self.keys.store(Arc::new(keys));
            }
            Err(error) => {
                tracing::warn!(source = %self.source, error, "the keys of an issuer cannot be read; those read before are kept");
            }
        }
    }
}

impl std::fmt::Display for JwksSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Url(url) => write!(f, "{url}"),
            Self::File(file) => write!(f, "{}", file.display()),
        }
    }
}

/// Parses a key set. Keys that cannot verify a JWT are left out.
fn parse(content: &[u8]) -> Result<Keys, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    if content.len() > MAX_BYTES {
        return Err("more than 1 MB".to_owned());
    }
    let Ok(set) = serde_json::from_slice::<Set>(content) else {
        return Err("not a JSON Web Key Set".to_owned());
    };
    let keys: Vec<Key> = set.keys.into_iter().take(MAX_KEYS).filter_map(key).collect();
    if keys.is_empty() {
        return Err("no key in it can verify a signature: RSA of 2048 bits or more, P-256, P-384 or Ed25519"
            .to_owned());
    }
    Ok(Keys { version: Sha256::digest(content).into(), keys })
}

fn key(value: serde_json::Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let fitting: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if rsa.n.len() * 6 >= MIN_RSA_BITS => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        // Symmetric keys among them: who can verify with one can sign.
        _ => return None,
    };
    let named = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
    let algorithms: Vec<Algorithm> = fitting
        .iter()
        .filter(|algorithm| named.as_ref().is_none_or(|named| *named == format!("{algorithm:?}")))
        .copied()
        .collect();
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    (!algorithms.is_empty()).then(|| Key { id: jwk.common.key_id, algorithms, decoding })
}
