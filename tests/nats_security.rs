use std::path::Path;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
use serde_json::{Value, json};

use crate::support::{
    App,
    Database::{Postgres, Sqlite},
    app::FREE_PORTS,
    health::USER_EVENTS,
    latchkey,
    nats::{Nats, SUBJECT, protobuf},
    until,
};

/// Writes certificates of a new authority for the broker and for its client, as `NAME.pem` and `NAME.key`.
fn certificates(folder: &Path) {
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = authority.self_signed(&key).unwrap();
    std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    let issuer = Issuer::new(authority, key);
    for name in ["server", "client"] {
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_can_authenticate_with_tls_certificates() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, client, client_key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let config = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {ca:?}, verify: true }}",
        file("server.pem"),
        file("server.key"),
    );
    let nats = Nats::start_with(folder, &config);
    let url = nats.url();
    let settings = ["--nats-url", &url, "--nats-create-stream", "--nats-tls", "--nats-tls-ca", &ca];
    let identity = ["--nats-tls-cert", &client, "--nats-tls-key", &client_key];
    let app = App::start_with(Sqlite, &[&settings[..], &identity].concat()).await;
    app.attached().await;

    let without_certificate = App::start_with(Sqlite, &settings).await;
    nats.says("TLS handshake error").await;
    assert!(!without_certificate.is_serving(USER_EVENTS).await);
}

/// A JWT of the NATS form, signed by `issuer`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let claims = json!({
        "jti": "test", "iat": 1, "name": "test", "iss": issuer.public_key(), "sub": subject.public_key(), "nats": nats,
    });
    let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encode(claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_subscriber_can_authenticate_with_a_credentials_file() {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_system = json!({ "type": "account", "version": 2, "limits": { "conn": -1, "subs": -1 } });
    let config = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}: {}\n{}: {}\n}}\n",
        jwt(&operator, &operator, json!({ "type": "operator", "version": 2 })),
        system.public_key(),
        system.public_key(),
        jwt(&operator, &system, of_system),
        account.public_key(),
        jwt(&operator, &account, json!({ "type": "account", "version": 2, "limits": limits })),
    );
    let nats = Nats::start_with(tempfile::tempdir().unwrap(), &config);
    let user_jwt =
        jwt(&account, &user, json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 }));
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap(),
    );
    let file = nats.folder.path().join("latchkey.creds");
    std::fs::write(&file, credentials).unwrap();
    let url = nats.url();
    let settings = ["--nats-url", &url, "--nats-create-stream"];
    let with_credentials = [&settings[..], &["--nats-credentials", file.to_str().unwrap()]].concat();
    let app = App::start_with(Sqlite, &with_credentials).await;
    app.attached().await;

    let without_credentials = App::start_with(Sqlite, &settings).await;
    nats.says("authentication error").await;
    assert!(!without_credentials.is_serving(USER_EVENTS).await);
}

#[test]
fn wrong_settings_stop_the_start_and_the_reason_contains_no_password() {
    let folder = tempfile::tempdir().unwrap();
    let start = |settings: &[&str]| {
        let said = latchkey::refuses(folder.path(), &[&FREE_PORTS[..], settings].concat());
        assert!(!said.contains("hunter2"), "{said}");
        said
    };
    let said = start(&["--nats-url", "nats://u:hunter2@h:port"]);
    assert!(said.contains("LATCHKEY_NATS_URL") && said.contains("nats://HOST:PORT"), "{said}");
    let said = start(&["--nats-url", "nats://127.0.0.1:1", "--nats-credentials", "/nowhere.creds"]);
    assert!(said.contains("LATCHKEY_NATS_CREDENTIALS") && said.contains("No such file"), "{said}");
    let said = start(&["--nats-url", "nats://127.0.0.1:1", "--nats-tls-ca", "/nowhere.pem"]);
    assert!(said.contains("LATCHKEY_NATS_TLS_CA") && said.contains("No such file"), "{said}");
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "nothing").unwrap();
    let empty = empty.to_str().unwrap();
    let said = start(&["--nats-url", "nats://127.0.0.1:1", "--nats-credentials", empty]);
    assert!(said.contains("LATCHKEY_NATS_CREDENTIALS") && said.contains(empty), "{said}");
    let said = start(&["--nats-url", "nats://127.0.0.1:1", "--nats-tls-ca", empty]);
    assert!(said.contains(empty) && said.contains("no PEM block"), "{said}");
    let said = start(&["--nats-url", "nats://127.0.0.1:1", "--nats-tls-cert", "/x.pem"]);
    assert!(said.contains("--nats-tls-key"), "{said}");
    let said = start(&["--nats-stream", "a.b"]);
    assert!(said.contains("--nats-stream") && said.contains("without white space"), "{said}");
}

/// The subjects to which the subscriber publishes, as docs/events.md lists them.
const PERMISSIONS: [&str; 9] = [
    "$JS.API.STREAM.INFO.IDENTITY",
    "$JS.API.STREAM.MSG.GET.IDENTITY",
    "$JS.API.CONSUMER.INFO.IDENTITY.latchkey",
    "$JS.API.CONSUMER.CREATE.IDENTITY.latchkey.>",
    "$JS.API.CONSUMER.MSG.NEXT.IDENTITY.latchkey",
    "$JS.ACK.IDENTITY.latchkey.>",
    "$JS.API.STREAM.INFO.LATCHKEY_DEAD_LETTERS",
    "$JS.API.STREAM.CREATE.LATCHKEY_DEAD_LETTERS",
    "latchkey.v1.dead_letter",
];

/// Starts a broker that lets the user `latchkey` publish only to `subjects`.
fn with_permissions(subjects: &[&str]) -> Nats {
    let config = format!(
        "authorization {{ users: [{{ user: admin, password: admin }}, {{ user: latchkey, password: hunter2, \
         permissions: {{ publish: {subjects:?}, subscribe: \"_INBOX.>\" }} }}] }}\nno_auth_user: admin",
    );
    Nats::start_with(tempfile::tempdir().unwrap(), &config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permissions_in_the_documentation_are_sufficient() {
    let documented = include_str!("../docs/events.md");
    for subject in PERMISSIONS {
        assert!(documented.contains(&format!("`{subject}`")), "{subject}");
    }
    assert!(documented.contains("`_INBOX.>`"));
    let nats = with_permissions(&PERMISSIONS);
    let identity = nats.with_identity_stream().await;
    let url = format!("nats://latchkey:hunter2@127.0.0.1:{}", nats.port());
    let app = App::start_with(Sqlite, &["--nats-url", &url, "--nats-ack-wait", "1s"]).await;
    app.attached().await;
    for user in ["damaged", "good"] {
        app.issue(user, "one").await;
    }
    nats.publish_raw(SUBJECT, b"NATS/1.0\r\nX-Name: \xe9\r\n\r\n", &protobuf("damaged")).await;
    nats.publish_raw(SUBJECT, b"NATS/1.0\r\nX-Name: \xe9\r\n\r\n", b"\xff").await;
    identity.delete_user("good").await;
    identity.publish(&[], b"\xff".to_vec()).await;
    identity.all_answered().await;
    assert_eq!(app.count("users WHERE deleted_at IS NOT NULL").await, 2);
    assert_eq!(identity.dead_letters().await.len(), 2);
}

/// After a failover or a restore, when the epoch of the database is not recorded yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_needs_no_other_permissions() {
    let nats = with_permissions(&PERMISSIONS);
    let identity = nats.with_identity_stream().await;
    let url = format!("nats://latchkey:hunter2@127.0.0.1:{}", nats.port());
    let app = App::start_with(Postgres, &["--nats-url", &url]).await;
    app.attached().await;
    identity.delete_user("alice").await;
    identity.all_answered().await;
    app.sql("DELETE FROM account_event_replays; UPDATE users SET deleted_at = NULL").await;
    let app = app.restart(&["--nats-url", &url]).await;
    until("the replay", || async { (app.count("account_event_replays").await == 1).then_some(()) }).await;
    assert_eq!(app.count("users WHERE deleted_at IS NOT NULL").await, 1);
}

/// The log names the subject that the broker refuses, and the service goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_named_in_the_log() {
    let missing = "$JS.API.STREAM.MSG.GET.IDENTITY";
    let allowed: Vec<_> = PERMISSIONS.into_iter().filter(|subject| *subject != missing).collect();
    let nats = with_permissions(&allowed);
    let identity = nats.with_identity_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("nats://latchkey:hunter2@127.0.0.1:{}", nats.port());
    let process = latchkey::Process::start(folder.path(), &["--nats-url", &url]);
    identity.consumer_shows("a request for messages", |it| it.num_waiting > 0).await;
    identity.delete_user("good").await;
    identity.all_answered().await;
    let log = process.stop().await;
    let said = "allow the subscriber's user to publish to this subject";
    let line = log.lines().find(|line| line.contains(said)).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(missing) && line.contains("ERROR"), "{line}");
    assert!(!log.contains("hunter2"));
}
