use std::path::Path;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use latchkey::proto::latchkey::CreateTokenRequest;
use rstest::rstest;
use sea_orm::ConnectionTrait as _;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    forge::forge,
    latchkey::Process,
    nats::Nats,
    otlp::Collector,
};

const PASSWORD: &str = "correct-horse-battery";
const NATS_PASSWORD: &str = "staple-of-nats";
const COLLECTOR_KEY: &str = "key-of-the-collector";

/// Every form in which bytes may come to be printed.
fn forms(bytes: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let decimal = format!("{bytes:?}");
    let base64 = BASE64_STANDARD.encode(bytes);
    let escaped = bytes.escape_ascii().to_string();
    vec![
        bytes.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        decimal.trim_matches(['[', ']']).to_owned().into_bytes(),
        base64.trim_end_matches('=').to_owned().into_bytes(),
        escaped.into_bytes(),
    ]
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Calls everything with good and bad input, and gives the secrets of the tokens that were issued.
async fn drive(app_url: &str, settings: &[&str], folder: &Path) -> (Vec<String>, String) {
    let nats = Nats::start_with(
        tempfile::tempdir().unwrap(),
        &format!("authorization {{ user: latchkey, password: {NATS_PASSWORD:?} }}"),
    );
    let nats_url = nats.url().replace("nats://", &format!("nats://latchkey:{NATS_PASSWORD}@"));
    let common =
        ["--database-url", app_url, "--log", "trace", "--nats-url", &nats_url, "--nats-create-stream"];
    let collector = Collector::start().await;
    let [endpoint, delay] = collector.variables();
    let headers = format!("authorization=Bearer {COLLECTOR_KEY}");
    let variables =
        [(endpoint.0, endpoint.1.as_str()), (delay.0, &delay.1), ("OTEL_EXPORTER_OTLP_HEADERS", &headers)];
    let process = Process::start_with(folder, &[&common, settings].concat(), &variables);
    let mut client = crate::support::app::connect(&process.url()).await;
    let mut secrets = Vec::new();
    for (user, name) in
        [("alice", "one"), ("alice", "two"), ("alice", "one"), ("", "x"), ("bob", "b\u{202e}b")]
    {
        let request = CreateTokenRequest {
            user_id: user.into(),
            name: name.into(),
            scopes: vec!["a".into()],
            expire_time: None,
        };
        secrets.extend(client.create_token(request).await.ok().map(|answer| answer.into_inner().secret));
    }
    let mut wrong = secrets[0].clone();
    wrong.replace_range(40..41, "_");
    let tried =
        [secrets[0].clone(), secrets[1].clone(), wrong, forge(&secrets[0], &secrets[1]), String::new()];
    for secret in &tried {
        for scope in ["a", "b", "Bad"] {
            let required_scopes = vec![scope.to_owned()];
            let request = latchkey::proto::latchkey::ValidateTokenRequest {
                secret: secret.clone().into(),
                required_scopes,
            };
            let _ = client.validate_token(request).await;
        }
    }
    let list = |page_size| latchkey::proto::latchkey::ListTokensRequest {
        user_id: "alice".into(),
        page_size,
        page_token: String::new(),
    };
    let page = client.list_tokens(list(0)).await.unwrap().into_inner();
    let _ = client.list_tokens(list(-1)).await;
    for id in [&page.tokens[0].id, &page.tokens[0].id, "x"] {
        let request = latchkey::proto::latchkey::DeleteTokenRequest {
            user_id: "alice".into(),
            token_id: id.to_owned(),
        };
        let _ = client.delete_token(request).await;
    }
    let event = br#"{"specversion": "1.0", "id": "e-1", "source": "/identity", "type": "identity.v1.UserDeleted", "data": {"userId": "bob"}}"#;
    let headers = [("content-type", "application/cloudevents+json")];
    for body in [&event[..], &event[1..]] {
        let _ = crate::support::http::send(process.http_addr, "POST /events", &headers, body).await;
    }
    let health = tonic_health::pb::HealthCheckRequest { service: "latchkey.v1.UserEvents".into() };
    let channel = tonic::transport::Channel::from_shared(process.url()).unwrap().connect().await.unwrap();
    let mut watch =
        tonic_health::pb::health_client::HealthClient::new(channel).watch(health).await.unwrap().into_inner();
    while watch.message().await.unwrap().unwrap().status()
        != tonic_health::pb::health_check_response::ServingStatus::Serving
    {}
    let (_, _, metrics) = crate::support::http::send(process.http_addr, "GET /metrics", &[], b"").await;
    assert!(metrics.contains("latchkey_validations_total"), "{metrics}");
    // What is refused may be quoted in an error: the secret must not be.
    let mut output = process.stop().await;
    output.push_str(&metrics);
    let spans = collector.received();
    assert!(!spans.is_empty());
    output.push_str(&format!("{spans:?}"));
    let refused: Vec<String> = tried.into_iter().filter(|secret| !secret.is_empty()).collect();
    (refused, output)
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_hash_tag_key_or_password_is_emitted_or_stored(
    #[values(Sqlite, Postgres)] database: Database,
    #[values("text", "json")] format: &str,
) {
    let app = App::start(database).await;
    let folder = tempfile::tempdir().unwrap();
    let key = [0xa7; 32];
    let ring = format!("primary = \"k\"\n[keys]\nk = \"{}\"\n", BASE64_STANDARD.encode(key));
    let ring = app.file("ring.toml", &ring);
    let url = match database {
        Sqlite => app.url.clone(),
        Postgres => with_password(&app).await,
    };
    // The first run tags with the ring's key; the second has lost it and tags anew.
    let (mut secrets, mut output) =
        drive(&url, &["--key-ring", ring.to_str().unwrap(), "--log-format", format], folder.path()).await;
    std::fs::write(
        &ring,
        format!("primary = \"j\"\n[keys]\nj = \"{}\"\n", BASE64_STANDARD.encode([0x5c; 32])),
    )
    .unwrap();
    app.sql("UPDATE tokens SET name = name || ' (old)'").await;
    let (more, second) =
        drive(&url, &["--key-ring", ring.to_str().unwrap(), "--log-format", format], folder.path()).await;
    secrets.extend(more);
    output.push_str(&second);
    assert!(output.contains("token issued") && output.contains("TRACE"), "the log has what it should have");

    assert!(output.contains("attached"), "the log has what it should have");
    let mut hidden: Vec<_> =
        [PASSWORD, NATS_PASSWORD, COLLECTOR_KEY].map(|password| password.as_bytes().to_vec()).into();
    for secret in &secrets {
        // The proof part, so that the public id in the log is not taken for it.
        hidden.push(secret.as_bytes()[27..70].to_vec());
        hidden.extend(forms(&bits(secret)));
    }
    hidden.extend(forms(&key));
    hidden.extend(forms(&[0x5c; 32]));
    let rows = app.query("SELECT secret_hash, tag FROM tokens").await;
    assert!(rows.len() >= 4);
    let mut proofs = Vec::new();
    for row in rows {
        let hash: String = row.try_get("", "secret_hash").unwrap();
        proofs.push(hash.rsplit('$').next().unwrap().as_bytes().to_vec());
        proofs.extend(forms(&row.try_get::<Vec<u8>>("", "tag").unwrap()));
    }
    for hidden in hidden.iter().chain(&proofs) {
        assert!(!contains(output.as_bytes(), hidden), "emitted: {}", hidden.escape_ascii());
    }

    let stored = stored(&app, database).await;
    assert!(contains(&stored, b"alice"), "the search reads what is stored");
    for hidden in &hidden {
        assert!(!contains(&stored, hidden), "stored: {}", hidden.escape_ascii());
    }
    let elsewhere = everything_but_the_proofs(&app).await;
    assert!(contains(&elsewhere, b"alice"));
    for proof in &proofs {
        assert!(!contains(&elsewhere, proof), "stored outside its column: {}", proof.escape_ascii());
    }
}

/// The random bits that a secret stands for.
fn bits(secret: &str) -> [u8; 32] {
    const DIGITS: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut number = [0_u8; 33];
    for digit in secret[27..70].chars() {
        let mut carry = DIGITS.find(digit).unwrap_or(0);
        for byte in number.iter_mut().rev() {
            let value = usize::from(*byte) * 62 + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
    }
    std::array::from_fn(|n| number[n + 1])
}

/// The URL of the database for a user who has a password.
async fn with_password(app: &App) -> String {
    let role = app.url.rsplit('/').next().unwrap().replace("test", "role");
    let database = app.database().await;
    let make = format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{PASSWORD}'");
    database.execute_unprepared(&make).await.unwrap();
    app.url.replace("postgres@", &format!("{role}:{PASSWORD}@"))
}

/// Every byte of the database's files; of PostgreSQL's, every row of every table as text.
async fn stored(app: &App, database: Database) -> Vec<u8> {
    match database {
        Sqlite => ["", "-wal"]
            .iter()
            .flat_map(|end| {
                std::fs::read(app.folder.path().join(format!("test.db{end}"))).unwrap_or_default()
            })
            .collect(),
        Postgres => rows(app, &["users", "tokens", "token_events"], "CAST(t AS text)").await,
    }
}

/// All columns but `secret_hash` and `tag`.
async fn everything_but_the_proofs(app: &App) -> Vec<u8> {
    let text = |columns: &[&str]| {
        columns
            .iter()
            .map(|column| format!("coalesce(CAST({column} AS text), '')"))
            .collect::<Vec<_>>()
            .join(" || ' ' || ")
    };
    let tokens = ["user_id", "name", "tag_key_id", "scopes", "created_at", "expires_at", "revoke_reason"];
    let events = ["at", "kind", "user_id", "actor", "reason"];
    [
        rows(app, &["users"], &text(&["user_id", "deleted_at"])).await,
        rows(app, &["tokens"], &text(&tokens)).await,
        rows(app, &["token_events"], &text(&events)).await,
    ]
    .concat()
}

async fn rows(app: &App, tables: &[&str], columns: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for table in tables {
        for row in app.query(&format!("SELECT {columns} AS line FROM {table} AS t")).await {
            all.extend(row.try_get::<String>("", "line").unwrap().into_bytes());
        }
    }
    all
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_does_not_give_its_password_away() {
    let port = crate::support::tools::free_port();
    let url = format!("postgres://u:{PASSWORD}@127.0.0.1:{port}/d");
    for command in ["serve", "migrate"] {
        let arguments = [command, "--database-url", &url, "--log", "trace", "--database-timeout", "300ms"];
        let output = crate::support::latchkey::run(arguments, "");
        assert_eq!(output.status.code(), Some(2));
        let said = [output.stdout, output.stderr].concat();
        for part in [&b"LATCHKEY_DATABASE_URL"[..], b"Connection refused"] {
            assert!(contains(&said, part), "{}", String::from_utf8_lossy(&said));
        }
        assert!(!contains(&said, PASSWORD.as_bytes()), "{}", String::from_utf8_lossy(&said));
    }
}
