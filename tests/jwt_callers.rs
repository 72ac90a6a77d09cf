//! Callers by JWT: which are accepted, and what happens while keys change or their server is away.

use std::{fs, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use latchkey::proto::latchkey::ListTokensRequest;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::support::{
    App,
    Database::Sqlite,
    caller::tokens_as,
    issuer::{AUDIENCE, Issuer, SigningKey, now},
    status::reason,
    until,
};

/// A service whose manager is the subject "console" of an issuer.
async fn start(issuer: &Issuer) -> (App, tempfile::TempDir) {
    let name = issuer.name();
    let caller = format!(
        "[[caller]]\nname = \"console\"\nroles = [\"manager\"]\njwts = [{{ issuer = \"{name}\", subject = \"console\" }}]\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("callers.toml");
    fs::write(&file, issuer.entry() + &caller).unwrap();
    (App::start_with(Sqlite, &["--callers", file.to_str().unwrap()]).await, folder)
}

async fn list(app: &App, jwt: &str) -> Result<(), Status> {
    let request = ListTokensRequest { user_id: "alice".into(), ..Default::default() };
    tokens_as(&app.channel, jwt).list_tokens(request).await.map(drop)
}

async fn is_refused(app: &App, jwt: &str, words: &str) {
    let status = list(app, jwt).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "BAD_CREDENTIALS".to_owned()));
    assert!(status.message().contains(words), "{}, not {words}", status.message());
}

/// A JWT with any header and signature.
fn forged(header: &Value, claims: &Value, sign: impl Fn(&str) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(&signed));
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn only_a_jwt_of_the_issuer_for_this_service_and_this_time_is_accepted() {
    let key = SigningKey::new("1");
    let issuer = Issuer::start(&[&key]).await;
    let (app, _folder) = start(&issuer).await;
    let with = |claim: &str, value: Value| {
        let mut claims = issuer.claims("console");
        claims[claim] = value;
        key.sign(&claims)
    };
    list(&app, &key.sign(&issuer.claims("console"))).await.unwrap();
    // Within the leeway.
    list(&app, &with("exp", json!(now() - 30))).await.unwrap();
    list(&app, &with("nbf", json!(now() + 30))).await.unwrap();
    list(&app, &with("aud", json!(["other", AUDIENCE]))).await.unwrap();
    for (jwt, words) in [
        (with("exp", json!(now() - 90)), "has expired"),
        (with("exp", json!("soon")), "lacks exp, aud or iss"),
        (with("exp", Value::Null), "lacks exp, aud or iss"),
        (with("nbf", json!(now() + 90)), "not valid yet"),
        (with("aud", json!("other")), "another audience"),
        (with("aud", Value::Null), "lacks exp, aud or iss"),
        (with("iss", json!("https://other.example.com")), "issuer is not known"),
        (with("iss", Value::Null), "not a JWT with an issuer"),
        (with("sub", json!("other")), "no caller's"),
        (with("sub", json!(["console"])), "not valid"),
        (SigningKey::new("1").sign(&issuer.claims("console")), "signature is wrong"),
        (with("padding", json!("x".repeat(8_000))), "more than 8192 bytes"),
    ] {
        is_refused(&app, &jwt, words).await;
    }
    // The public key as the secret of an HMAC, and no signature at all.
    let claims = issuer.claims("console");
    let hmac = |signed: &str| {
        use hmac::{Hmac, KeyInit as _, Mac as _};
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.jwk().to_string().as_bytes()).unwrap();
        mac.update(signed.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let hs256 = forged(&json!({ "alg": "HS256", "kid": "1" }), &claims, hmac);
    is_refused(&app, &hs256, "algorithm is not that of its key").await;
    for alg in ["none", "None", "ES512"] {
        let none = forged(&json!({ "alg": alg, "kid": "1" }), &claims, |_| Vec::new());
        is_refused(&app, &none, "an algorithm that is known").await;
    }
    // More than a request's headers may have.
    let huge = key.sign(&json!({ "iss": issuer.name(), "x": "x".repeat(1 << 20) }));
    list(&app, &huge).await.unwrap_err();
    list(&app, &key.sign(&issuer.claims("console"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_fetched_once_and_a_removed_one_is_no_longer_accepted() {
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let issuer = Issuer::start(&[&old]).await;
    let (app, _folder) = start(&issuer).await;
    let [of_old, of_new] = [&old, &new].map(|key| key.sign(&issuer.claims("console")));
    list(&app, &of_old).await.unwrap();
    let before = issuer.fetches();
    issuer.set_keys(&[&new]);
    // Made-up key ids do not have the keys fetched more than once in ten seconds.
    until("the new key", || async {
        let answer = list(&app, &of_new).await;
        if answer.is_err() {
            // Each refusal counts as a wrong credential of this address.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        answer.ok()
    })
    .await;
    for n in 0..20 {
        let made_up = SigningKey::new(&format!("made up {n}"));
        is_refused(&app, &made_up.sign(&issuer.claims("console")), "not one of its issuer's").await;
    }
    assert!(issuer.fetches() <= before + 2, "{} fetches", issuer.fetches() - before);
    is_refused(&app, &of_old, "not one of its issuer's").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_kept_while_their_server_is_away_and_without_any_the_answer_is_unavailable() {
    let key = SigningKey::new("1");
    let issuer = Issuer::start(&[&key]).await;
    issuer.set_away(true);
    let (app, _folder) = start(&issuer).await;
    let jwt = key.sign(&issuer.claims("console"));
    assert_eq!(list(&app, &jwt).await.unwrap_err().code(), Code::Unavailable);
    issuer.set_away(false);
    until("the keys", || async { list(&app, &jwt).await.ok() }).await;
    issuer.set_away(true);
    list(&app, &key.sign(&issuer.claims("console"))).await.unwrap();
    list(&app, &jwt).await.unwrap();
}
