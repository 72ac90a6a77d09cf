//! An issuer of JWTs: keys, and a server for their public halves.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The audience of JWTs for the service.
pub const AUDIENCE: &str = "latchkey";

/// A P-256 key with an id.
pub struct SigningKey {
    id: String,
    pair: KeyPair,
}

impl SigningKey {
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    /// The public half (RFC 7518, section 6.2).
    pub fn jwk(&self) -> Value {
        // 4, x and y.
        let point = self.pair.der_bytes();
        let coordinate = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
            "x": coordinate(1..33), "y": coordinate(33..65),
        })
    }

    /// A JWT with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_der(&self.pair.serialize_der());
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }
}

/// A running key server.
#[derive(Clone)]
pub struct Issuer {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    keys: Mutex<Vec<Value>>,
    away: AtomicBool,
    fetches: AtomicUsize,
}

impl Issuer {
    pub async fn start(keys: &[&SigningKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let router = Router::new().route("/keys", get(show)).with_state(Arc::clone(&shared));
        tokio::spawn(async { axum::serve(listener, router).await });
        let issuer = Self { addr, shared };
        issuer.set_keys(keys);
        issuer
    }

    /// The value of `iss`.
    pub fn name(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Its entry in the callers file, without the claim of the user id.
    pub fn entry(&self) -> String {
        let name = self.name();
        format!("[[issuer]]\nissuer = \"{name}\"\naudiences = [\"{AUDIENCE}\"]\njwks_url = \"{name}/keys\"\n")
    }

    pub fn set_keys(&self, keys: &[&SigningKey]) {
        *self.shared.keys.lock().unwrap() = keys.iter().map(|key| key.jwk()).collect();
    }

    /// Answers 503 from now on, or no longer.
    pub fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::SeqCst);
    }

    /// How often the keys were asked for.
    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    /// The claims of a good JWT.
    pub fn claims(&self, subject: &str) -> Value {
        json!({ "iss": self.name(), "sub": subject, "aud": AUDIENCE, "exp": now() + 3_600, "iat": now() })
    }
}

/// Seconds since the Unix epoch.
pub fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

async fn show(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    shared.fetches.fetch_add(1, Ordering::SeqCst);
    if shared.away.load(Ordering::SeqCst) {
        return (StatusCode::SERVICE_UNAVAILABLE, String::new());
    }
    (StatusCode::OK, json!({ "keys": *shared.keys.lock().unwrap() }).to_string())
}
